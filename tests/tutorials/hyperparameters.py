"""Tune a classifier: one dispatch for each learning rate, keyword arguments through the lattice, results later."""

# prints: [0.01, 0.1, 1.0] True True (200, 2) ['load', 'split', 'train', 'score', ':parameter:0.7', ':parameter:1.0']

from dataclasses import dataclass

import numpy as np

import hpcflow as ct


@dataclass
class Model:
    weights: np.ndarray
    bias: float

    def predict(self, x):
        return (x @ self.weights + self.bias > 0).astype(int)


@ct.electron
def load(seed=3):
    random = np.random.default_rng(seed)
    x = random.normal(size=(200, 2))
    return x, (x[:, 0] + 2 * x[:, 1] > 0).astype(int)


@ct.electron
def split(data, fraction):
    x, y = data
    n = int(len(x) * fraction)
    return x[:n], y[:n], x[n:], y[n:]


@ct.electron
def train(data, rate, epochs=50):
    x, y = data[0], data[1]
    weights, bias = np.zeros(2), 0.0
    for _ in range(epochs):
        p = 1 / (1 + np.exp(-(x @ weights + bias)))
        weights -= rate * x.T @ (p - y) / len(x)
        bias -= rate * float(np.mean(p - y))
    return Model(weights, bias)


@ct.electron
def score(data, model):
    return float(np.mean(model.predict(data[2]) == data[3]))


@ct.lattice
def experiment(rate=0.1, **kwargs):
    data = split(load(**kwargs), 0.7)
    model = train(data=data, rate=rate)
    return score(data=data, model=model), model.weights[0] / model.weights[1]


if __name__ == "__main__":
    ids = [ct.dispatch(experiment)(rate=rate) for rate in (0.01, 0.1, 1.0)]
    results = [ct.get_result(dispatch_id=each, wait=True) for each in ids]
    rates = [result.inputs["kwargs"]["rate"] for result in results]
    good = all(result.status == ct.status.COMPLETED and result.result[0] > 0.9 for result in results)
    ratio = abs(results[-1].result[1] - 0.5) < 0.1
    shape = results[-1].get_node_result(node_id=0)["output"][0].shape
    print(rates, good, bool(ratio), shape, [node["node_name"] for node in results[-1].get_all_node_results()])
