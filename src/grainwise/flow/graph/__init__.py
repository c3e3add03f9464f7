"""What a workflow's function is traced to: nodes, and promises of their outputs."""
