"""Prints the id of a dispatch that has ended, for routes that need one."""

import hpcflow as hf


@hf.electron(executor="local")
def half(number: int) -> float:
    print("half of", number)
    return number / 2


@hf.lattice
def halves(count: int) -> list[float]:
    return [half(number) for number in range(count)]


if __name__ == "__main__":
    dispatch = hf.dispatch(halves)(3)
    hf.get_result(dispatch, wait=True)
    print(dispatch)
