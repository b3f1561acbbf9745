import { flexRender, getCoreRowModel, useReactTable, type ColumnDef, type RowData } from "@tanstack/react-table";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useRef } from "react";
import { count, plural } from "../format";

declare module "@tanstack/react-table" {
  // The parameters are those of the declaration that this one joins.
  // eslint-disable-next-line @typescript-eslint/no-unused-vars
  interface ColumnMeta<TData extends RowData, TValue> {
    readonly numeric?: boolean;
    /** Left out first on small screens: 1 stays longest. */
    readonly rank?: 1 | 2 | 3;
    /** Its text has several lines where there is little room. */
    readonly wraps?: "why" | "start";
  }
}

interface Props<T> {
  readonly label: string;
  // Any: a column's value has a type of its own in each.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  readonly columns: ColumnDef<T, any>[];
  readonly rows: T[];
  /** Of all pages; what is not here yet is fetched when it comes near. */
  readonly found: number;
  readonly keyOf: (row: T) => string;
  readonly sort: { readonly column: string; readonly descending: boolean };
  readonly onSort: (column: string, descending: boolean) => void;
  readonly more?: (() => void) | undefined;
  readonly rowClass?: (row: T) => string;
  /** States without words on small screens. */
  readonly lean?: boolean;
}

const ROW = 37;

/** Rows are made only where they can be seen; the table says to screen readers how many there are. */
export function DataTable<T>({ label, columns, rows, found, keyOf, sort, onSort, more, rowClass, lean = false }: Props<T>) {
  const scroller = useRef<HTMLDivElement>(null);
  const table = useReactTable({ data: rows, columns, getCoreRowModel: getCoreRowModel(), manualSorting: true, getRowId: keyOf });
  const all = table.getRowModel().rows;
  const virtual = useVirtualizer({ count: all.length, getScrollElement: () => scroller.current, estimateSize: () => ROW, overscan: 12, getItemKey: (index) => all[index]!.id });
  const items = virtual.getVirtualItems();
  const last = items.at(-1)?.index ?? 0;
  useEffect(() => {
    if (more && last >= all.length - 20) more();
  }, [more, last, all.length]);
  const before = items[0]?.start ?? 0;
  const after = virtual.getTotalSize() - (items.at(-1)?.end ?? 0);
  const width = columns.length;
  return (
    <div className={lean ? "table lean" : "table"} ref={scroller} tabIndex={0} role="region" aria-label={label}>
      <table aria-rowcount={found + 1} aria-label={label}>
        <thead>
          {table.getHeaderGroups().map((group) => (
            <tr key={group.id} aria-rowindex={1}>
              {group.headers.map((header) => {
                const id = header.column.id;
                const on = sort.column === id;
                const meta = header.column.columnDef.meta;
                return (
                  <th key={header.id} scope="col" className={classes(meta)} aria-sort={on ? (sort.descending ? "descending" : "ascending") : undefined}>
                    {header.column.columnDef.enableSorting === false ? (
                      flexRender(header.column.columnDef.header, header.getContext())
                    ) : (
                      <button type="button" className="sort" onClick={() => onSort(id, on ? !sort.descending : meta?.numeric === true)}>
                        {flexRender(header.column.columnDef.header, header.getContext())}
                        <span aria-hidden="true">{on ? (sort.descending ? " ↓" : " ↑") : ""}</span>
                      </button>
                    )}
                  </th>
                );
              })}
            </tr>
          ))}
        </thead>
        <tbody>
          {before > 0 && <tr aria-hidden="true"><td colSpan={width} style={{ height: before }} className="gap" /></tr>}
          {items.map((item) => {
            const row = all[item.index]!;
            return (
              <tr key={row.id} ref={virtual.measureElement} data-index={item.index} aria-rowindex={item.index + 2} className={rowClass?.(row.original)}>
                {row.getVisibleCells().map((cell) => (
                  <td key={cell.id} className={classes(cell.column.columnDef.meta)}>{flexRender(cell.column.columnDef.cell, cell.getContext())}</td>
                ))}
              </tr>
            );
          })}
          {after > 0 && <tr aria-hidden="true"><td colSpan={width} style={{ height: after }} className="gap" /></tr>}
        </tbody>
      </table>
    </div>
  );
}

function classes(meta: { readonly numeric?: boolean; readonly rank?: number; readonly wraps?: string } | undefined): string {
  return [meta?.numeric ? "numeric" : "", meta?.rank ? `rank-${meta.rank}` : "", meta?.wraps ? `${meta.wraps}-cell` : ""].filter(Boolean).join(" ");
}

/** "12 of 10 000 tasks": what is shown is never taken for all there is. */
export function HowMany({ found, total, word, words = `${word}s` }: { found: number; total: number; word: string; words?: string }) {
  return (
    <p className="soft howmany" role="status">
      {found === total ? plural(total, word, words) : `${count(found)} of ${plural(total, word, words)}`}
    </p>
  );
}
