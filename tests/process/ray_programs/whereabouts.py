"""What a task and a program can ask about where they are."""

import ray

ray.init(num_cpus=2, namespace="places")


@ray.remote
def ask():
    context = ray.get_runtime_context()
    assert context.get_actor_id() is None
    assert context.get_assigned_resources() == {"CPU": 1.0}
    return {
        "job": context.get_job_id(),
        "node": context.get_node_id(),
        "worker": context.get_worker_id(),
        "task": context.get_task_id(),
        "name": context.get_task_name(),
        "function": context.get_task_function_name(),
    }


here = ray.get_runtime_context()
first, second = ray.get([ask.remote(), ask.options(name="second").remote()])
assert here.namespace == "places"
assert first["job"] == second["job"] == here.get_job_id()
assert first["node"] == second["node"] == here.get_node_id() == ray.nodes()[0]["NodeID"]
assert here.get_worker_id() not in (first["worker"], second["worker"])
assert first["task"] != second["task"]
assert (first["name"], second["name"]) == ("ask", "second")
assert first["function"] == second["function"] == "whereabouts.ask"
assert (len(first["job"]), len(first["node"]), len(first["worker"]), len(first["task"])) == (8, 56, 56, 48)

assert ray.cluster_resources()["CPU"] == 2.0
assert ray.available_resources().get("CPU", 0.0) <= 2.0
assert ray.get_gpu_ids() == []
print("done")
