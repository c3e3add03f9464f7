"""The tests, a package only so that they can say `from tests.leaks import run_script`."""
