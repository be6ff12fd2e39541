"""What each verb of the command line does, callable from Python: one file per verb. Printing is the caller's."""
