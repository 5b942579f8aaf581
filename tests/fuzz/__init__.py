"""Coverage-guided fuzzing: `make fuzz SECONDS=600 [ARGS=target]`.

Each target is a module with one function, `run(data)`, which makes an input of any bytes, gives it to the program and
asserts what must hold whatever they are. It knows nothing of the fuzzer: `tests.fuzz.test_regressions` gives it every
file of `seeds/` as an ordinary test, and a crash that a run has found becomes one of them.
"""
