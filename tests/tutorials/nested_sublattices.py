"""Workflows in workflows: how many tasks there are is known only when the ones before have run."""

import hpcflow as ct


@ct.electron
def numbers(n):
    return list(range(1, n + 1))


@ct.electron
def square(x):
    return x * x


@ct.electron
def total(values):
    return sum(values)


@ct.electron
@ct.lattice
def squares(values):
    return total([square(value) for value in values])


@ct.lattice
def rows(sizes):
    return [squares(numbers(size)) for size in sizes]


rows_electron = ct.electron(rows)


@ct.lattice
def workflow(n):
    sums = rows_electron(numbers(n))
    return total(sums), sums


result = ct.dispatch_sync(workflow)(3)
inner = result.get_node_result(1)["sublattice_result"]
print(result.status, result.result, inner.status, inner.result)

# prints: COMPLETED (20, [1, 5, 14]) COMPLETED [1, 5, 14]
