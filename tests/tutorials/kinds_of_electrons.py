"""All that Python can call: coroutines, partials, methods, classes, generators, lambdas, and arrays between them."""

import asyncio
from dataclasses import dataclass
from functools import partial

import numpy as np

import hpcflow as ct


@ct.electron
async def fetch(number):
    await asyncio.sleep(0)
    return np.full(number, number)


@dataclass
class Model:
    slope: float

    @ct.electron
    def predict(self, x):
        return self.slope * x

    def score(self, x):
        return float(np.sum(x))


@ct.electron
def steps(x):
    yield x.min()
    yield x.max()


make = ct.electron(Model)
add = ct.electron(lambda x, y: x + y)
scale = ct.electron(partial(np.multiply, 2))


@ct.lattice
def workflow(n):
    x = fetch(n)
    model = Model(3.0)
    predicted = model.predict(x)
    low, high = steps(add(predicted, scale(x)))
    return {
        "score": ct.electron(model.score)(predicted),
        "range": (low, high),
        "slope": make(2.5).slope + 1,
    }


result = ct.dispatch_sync(workflow)(4)
print(result.status, {name: np.asarray(value).tolist() for name, value in result.result.items()})

# prints: COMPLETED {'score': 48.0, 'range': [20.0, 20.0], 'slope': 3.5}
