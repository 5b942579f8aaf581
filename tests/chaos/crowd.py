"""All rounds, side by side: each worker has a PostgreSQL of its own; the first broken promise ends everything."""

import contextlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.atomicfile import on_memory
from agent.dev.cluster import Binaries, Cluster
from agent.failpoints import Failpoint
from tests.chaos.plan import Accident, Place
from tests.chaos.rounds import Outcome, Round, Violation
from tests.chaos.world import World
from tests.fix_postgres import SETTINGS, create_database, place

PLACES: tuple[Place, ...] = (*Failpoint, *Accident)


@dataclass(kw_only=True)
class Tally:
    """One place's outcomes so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    took: float = 0.0

    def __str__(self) -> str:
        return (
            f"{len(self.outcomes):6d} {sum(one.kills for one in self.outcomes):6d} "
            f"{sum(one.adopted for one in self.outcomes):8d} {sum(one.replaced for one in self.outcomes):9d} "
            f"{sum(one.logins for one in self.outcomes):7d} {sum(one.reads for one in self.outcomes):7d} "
            f"{max(one.ready_in for one in self.outcomes):10.2f} {self.took / len(self.outcomes):11.2f}"
        )


HEADING = f"{'killed at':18} rounds  kills  adopted  replaced  logins   reads  ready s max  round s avg"


class Crowd:
    """Runs `rounds` rounds at each of `places` on `workers` servers.

    Args:
        seed: of the first round; the others count on from it.
        tell: gets a line for each place that is done.
    """

    def __init__(
        self,
        binaries: Binaries,
        rounds: int,
        *,
        places: Sequence[Place] = PLACES,
        workers: int,
        seed: int,
        tell: Callable[[str], None],
    ) -> None:
        self._binaries = binaries
        self._rounds = rounds
        self._workers = workers
        self._tell = tell
        self._tallies: dict[Place, Tally] = {each: Tally() for each in places}
        self._lock = threading.Lock()
        self._failed: list[str] = []
        self._todo: queue.SimpleQueue[tuple[Place, int]] = queue.SimpleQueue()
        for each in places:
            for n in range(rounds):
                self._todo.put((each, seed + n))

    def run(self) -> str:
        """Every round; "", or the account of the first that broke a promise."""
        self._tell(HEADING)
        threads = [threading.Thread(target=self._work) for _ in range(self._workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self._failed[0] if self._failed else ""

    def _work(self) -> None:
        try:
            with _worlds(self._binaries) as (world, directory):
                while not self._failed:
                    one, seed = self._todo.get_nowait()
                    began = time.monotonic()
                    outcome = Round(world, one, directory / "r", seed).run()
                    self._note(one, outcome, time.monotonic() - began)
        except queue.Empty:
            return
        except Violation as violation:
            self._failed.append(str(violation))
        except BaseException as error:  # the others must not go on alone
            self._failed.append(f"the test itself failed: {error!r}")
            raise

    def _note(self, one: Place, outcome: Outcome, took: float) -> None:
        with self._lock:
            tally = self._tallies[one]
            tally.outcomes.append(outcome)
            tally.took += took
            if len(tally.outcomes) == self._rounds:
                self._tell(f"{one:18} {tally}")


@contextlib.contextmanager
def _worlds(binaries: Binaries) -> Iterator[tuple[World, Path]]:
    """A server, a database and a directory in memory."""
    memory = Path("/dev/shm")  # noqa: S108
    base = memory if memory.is_dir() and on_memory(memory) else None
    with (
        tempfile.TemporaryDirectory(prefix="lh-", dir=base) as name,
        Cluster(binaries, place(), settings=SETTINGS) as c,
    ):
        directory = Path(name)
        directory.chmod(0o755)
        yield World(create_database(c, directory)), directory
