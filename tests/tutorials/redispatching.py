"""Repair what failed: replace an electron, keep what was computed, run a stored workflow with other arguments."""

# prints: FAILED True 50 150 NEW_OBJECT 206

import hpcflow as ct


@ct.electron
def add(x, y):
    return x + y


@ct.electron
def multiply(x, y):
    return x * y


@ct.electron
def limited(x, limit):
    assert x < limit, "too large"
    return x


@ct.lattice
def workflow(a, b, limit=50):
    return limited(multiply(add(x=a, y=b), b), limit)


@ct.electron
def cut(x, limit):
    return min(x, limit)


@ct.electron
def add_more(x, y):
    return x + y + 100


def result_of(dispatch_id):
    return ct.get_result(dispatch_id, wait=True).result


if __name__ == "__main__":
    first = ct.dispatch(workflow)(5, 10)
    failed = ct.get_result(first, wait=True)
    mended = ct.redispatch(first, replace_electrons={"limited": cut}, reuse_previous_results=True)()
    value = result_of(mended)
    wider = result_of(ct.redispatch(dispatch_id=mended, reuse_previous_results=True)(5, 10, limit=500))
    held = ct.dispatch(workflow, disable_run=True)(1, 2)
    status = ct.get_result(held).status
    other = result_of(ct.redispatch(held, replace_electrons={"add": add_more})(1, 2, limit=1000))
    print(failed.status, "too large" in failed.error, value, wider, status, other)
