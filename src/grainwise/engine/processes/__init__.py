"""Starting, watching and ending processes: the template, the workers, their output."""
