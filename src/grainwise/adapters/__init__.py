"""The engine under other libraries' interfaces: concurrent.futures, joblib, Dask."""
