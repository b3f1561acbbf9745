import { useQuery } from "@tanstack/react-query";
import { efficiencyQuery } from "../api/insight";
import { Fault, Loading } from "../components/basics";
import { Figures, Spent, Uses } from "./Uses";

/** What a dispatch was charged for and used, and what its electrons had better ask for. Once it has ended, its head says the first in words. */
export default function DispatchEfficiency({ id, live }: { id: string; live: boolean }) {
  const { data, error, refetch } = useQuery(efficiencyQuery(id));
  if (error && !data) return <Fault error={error} retry={() => void refetch()} />;
  if (!data) return <Loading what="what it used" />;
  return (
    <>
      {live && <p>{data.usage.sentences.join(" ")}</p>}
      <Figures sums={data.usage} uses={data.electrons} />
      <Spent sums={data.usage} />
      <Uses uses={data.electrons} enough={data.enough} dispatch={id} />
    </>
  );
}
