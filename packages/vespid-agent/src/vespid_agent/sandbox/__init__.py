"""Where shell tasks run: backends behind one small interface (`task.Backend`)."""
