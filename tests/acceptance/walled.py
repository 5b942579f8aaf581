"""The agent where no memory can be written and run, as the unit's MemoryDenyWriteExecute= has it (Linux 6.3)."""

import ctypes
import sys

from agent.cli import main

_PR_SET_MDWE, _REFUSE_EXEC_GAIN = 65, 1
UNKNOWN = 77

if __name__ == "__main__":
    if ctypes.CDLL(None).prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
        sys.exit(UNKNOWN)
    sys.exit(main(sys.argv[1:]))
