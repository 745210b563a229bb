"""What turns decisions into work: the stepper reads a run, asks the machine and writes; the scheduler finds executors.

Worker, edge and brain all use these two, so that whoever receives a result applies it.
"""
