"""Watch a dispatch, cancel some of its tasks and then all of it, and look at what failed in another one."""

# prints: CANCELLED None ['COMPLETED', 'CANCELLED', 'CANCELLED', 'NEW_OBJECT'] FAILED RuntimeError: no 1 NEW_OBJECT

import time

import hpcflow as ct


@ct.electron
def quick(x):
    return x


@ct.electron
def slow(x):
    time.sleep(600)
    return x


@ct.electron
def combine(*values):
    return sum(values)


@ct.lattice
def endless():
    begin = quick(1)
    return combine(slow(begin), slow(begin))


@ct.electron
def broken(x):
    raise RuntimeError(f"no {x}")


@ct.lattice
def failing():
    return quick(broken(1))


if __name__ == "__main__":
    dispatch_id = ct.dispatch(endless)()
    while ct.get_result(dispatch_id).get_node_result(0)["status"] != ct.status.COMPLETED:
        time.sleep(0.2)
    ct.cancel(dispatch_id, task_ids=[1])
    ct.cancel(dispatch_id)
    cancelled = ct.get_result(dispatch_id, wait=True)
    states = [str(node["status"]) for node in cancelled.get_all_node_results()[:4]]
    failed = ct.get_result(ct.dispatch(failing)(), wait=True)
    if failed.status == ct.status.FAILED and not failed.result:
        nodes = [failed.get_node_result(number) for number in (0, 1)]
        print(cancelled.status, cancelled.result, states, failed.status, nodes[0]["error"], nodes[1]["status"])
