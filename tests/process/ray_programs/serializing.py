"""Own ways of pickling, and finding what can't be pickled."""

import io
import threading

import ray
from ray.util import deregister_serializer, inspect_serializability, register_serializer

ray.init(num_cpus=2)


class Connection:
    def __init__(self, address):
        self.address = address
        self.lock = threading.Lock()


@ray.remote
def read(connection):
    return connection.address


try:
    ray.get(read.remote(Connection("there")))
except TypeError:
    pass
else:
    raise AssertionError("a lock can't be pickled")

register_serializer(
    Connection, serializer=lambda value: value.address, deserializer=lambda address: Connection(address)
)
assert ray.get(read.remote(Connection("there"))) == "there"
assert ray.get(ray.put(Connection("here"))).address == "here"
deregister_serializer(Connection)
try:
    ray.put(Connection("there"))
except TypeError:
    pass
else:
    raise AssertionError("the serializer is gone")

lock = threading.Lock()


def uses_lock():
    return lock


said = io.StringIO()
is_fine, failures = inspect_serializability(uses_lock, name="uses_lock", print_file=said)
assert not is_fine
(failure,) = failures
assert failure.obj is lock
assert failure.parent is uses_lock
assert "lock" in str(failure)
assert "Checking Serializability of" in said.getvalue()
assert "FAIL" in said.getvalue()
assert inspect_serializability([1, 2], print_file=said) == (True, set())
print("done")
