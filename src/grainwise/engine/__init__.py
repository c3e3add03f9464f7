"""Who runs it: the driver, the template process, the workers and what connects them."""
