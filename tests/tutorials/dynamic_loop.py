"""A loop that ends when it has converged: each step is a sublattice that decides whether another follows."""

import hpcflow as ct


@ct.electron
def improve(x, number):
    return (x + number / x) / 2


@ct.electron
def error(x, number):
    return abs(x * x - number)


@ct.electron
@ct.lattice
def refine(x, off, number, steps):
    if off < 1e-9 or steps == 0:
        return x
    better = improve(x, number)
    return refine(better, error(better, number), number, steps - 1)


@ct.electron
def report(root):
    return f"{root:.6f}"


@ct.lattice
def square_root(number, guess=1.0):
    start = improve(guess, number)
    return report(refine(start, error(start, number), number, 10))


result = ct.dispatch_sync(square_root)(2.0)
print(result.status, result.result)

# prints: COMPLETED 1.414214
