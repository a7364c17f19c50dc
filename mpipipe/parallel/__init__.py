"""Ranks: the world, the master and its workers. Knows MPI, knows no astronomy.

How a command uses it, the same on every rank and without MPI::

    from mpipipe.parallel.launch import launch
    from mpipipe.parallel.tasks import TaskReport, TaskSpec

    def execute(phase: str, task_id: int, attempt: int) -> TaskReport: ...   # in the task process
    def commit(result: TaskResult) -> None: ...                              # in the MPI process

    with launch(execute) as ranks:          # forks the task process, then starts MPI
        report = ranks.run_phase("calibrate", tasks, commit, progress)

- `tasks`: the values that go in and out (TaskSpec, TaskReport, TaskResult, TaskSummary).
- `launch`: the right order of starting and leaving; `world`: the ranks and their few collectives.
- `phase`: `run_phase`, the loop of every rank; `master`, `worker`: its two halves; `scheduler`:
  who gets which task, as a state machine without MPI, clock or files.
- `zygote`, `taskprocess`, `executor`, `frames`: the task process and how it is replaced.
- `mailbox`, `messages`: small fixed NumPy records between the ranks.
- `signals`, `threads`, `progress`: asked to stop, threads of libraries, what a person sees.

This module imports nothing, so that `threads.limit_threads` can come before numpy.
"""
