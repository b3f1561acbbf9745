import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { latelyQuery } from "../api/insight";
import { Fault, Loading, StatusBadge, Title, When } from "../components/basics";
import { count, plural } from "../format";
import { coreTime, Figures, ranShare, Spent, Uses } from "../insight/Uses";
import { DAYS, efficiency as route } from "../router";

const WORDS: Readonly<Record<(typeof DAYS)[number], string>> = { 1: "24 hours", 7: "7 days", 30: "30 days", 365: "a year" };

/** What all dispatches of some days cost, and what to ask for the next time. */
export function Efficiency() {
  const { days = 30 } = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const { data, error, refetch } = useQuery(latelyQuery(days));
  const costly = [...(data?.dispatches ?? [])].filter((each) => each.charged_s > 0).sort((one, other) => other.charged_s - other.tasks_s - (one.charged_s - one.tasks_s)).slice(0, 10);
  return (
    <section className="screen">
      <div className="title-line">
        <Title text="Efficiency" />
        <div className="chips" role="group" aria-label="Days">
          {DAYS.map((each) => <button key={each} type="button" className="chip" aria-pressed={each === days} onClick={() => void navigate({ search: each === 30 ? {} : { days: each } })}>{WORDS[each]}</button>)}
        </div>
      </div>
      {error && <Fault error={error} retry={() => void refetch()} />}
      {!data && !error && <Loading what="what was used" />}
      {data && (
        <>
          {data.dispatches.length > 0 && (
            <Figures sums={data} uses={data.electrons}>
              {data.charged_s ? "for " : "no charge is known of "}{plural(data.dispatches.length, "dispatch", "dispatches")}{data.dispatches_total > data.dispatches.length ? `, the newest of ${count(data.dispatches_total)}` : ""}
            </Figures>
          )}
          <Spent sums={data} />
          <Uses uses={data.electrons} enough={data.enough} />
          {costly.length > 0 && (
            <>
              <h2>Dispatches in which most was charged while no task was running</h2>
              <div className="table" tabIndex={0} role="region" aria-label="Costly dispatches">
                <table>
                  <thead><tr><th scope="col">Lattice</th><th scope="col" className="rank-1">Status</th><th scope="col" className="numeric">Charged</th><th scope="col" className="numeric">A task was running</th><th scope="col" className="rank-1">Created</th></tr></thead>
                  <tbody>
                    {costly.map((each) => (
                      <tr key={each.id}>
                        <td><Link to="/d/$id" params={{ id: each.id }} search={{ view: "efficiency" }} className="clip" title={each.name}>{each.name || "(no name)"}</Link></td>
                        <td className="rank-1"><StatusBadge status={each.status} /></td>
                        <td className="numeric">{coreTime(each.charged_s)}{each.complete ? "" : " so far"}</td>
                        <td className="numeric">{ranShare(each)}</td>
                        <td className="rank-1"><When time={String(each.created_at)} /></td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            </>
          )}
        </>
      )}
    </section>
  );
}
