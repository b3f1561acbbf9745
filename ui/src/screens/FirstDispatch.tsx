import { Code, Notice } from "../components/basics";

const PROGRAM = `import hpcflow as hf

@hf.electron
def square(x):
    return x * x

@hf.electron
def total(values):
    return sum(values)

@hf.lattice
def squares(n):
    return total([square(k) for k in range(n)])

print(hf.dispatch_sync(squares)(20).result)
`;

/** What an empty home shows: the shortest program that fills it. */
export function FirstDispatch() {
  return (
    <div className="card narrow">
      <Notice title="Nothing was dispatched here yet.">Save this as <code>first.py</code>, run <code>python first.py</code>, and watch it arrive.</Notice>
      <Code text={PROGRAM} label="a first program" />
    </div>
  );
}
