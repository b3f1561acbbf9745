import { useCallback, useEffect, useRef } from "react";
import { fit, opening, palette, showsAll, type Renderer, type View } from "./draw";
import type { Layout } from "./layout";

interface Props {
  readonly layout: Layout;
  readonly renderer: Renderer;
  readonly codes: Uint8Array;
  readonly selected: number | null;
  readonly task: number | null;
  /** How strongly each group is seen; null: all alike. */
  readonly seen: Uint8Array | null;
  /** The group to begin with, where not all can be read. */
  readonly matters: number;
  readonly label: string;
  readonly onSelect: (group: number | null, task?: number | null) => void;
  readonly onOpen: (group: number) => void;
  readonly onFailed: (step: 1 | -1) => void;
  /** Into the first sublattice of what is selected, and out of the one that is shown. */
  readonly onStep: (way: "in" | "out") => void;
}

const SMALLEST = 0.002;
const LARGEST = 12;

/** The drawing: painted when something changed, and never otherwise. */
export function Canvas({ layout, renderer, codes, selected, task, seen, matters, label, onSelect, onOpen, onFailed, onStep }: Props) {
  const side = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const map = useRef<HTMLCanvasElement>(null);
  const view = useRef<View | null>(null);
  const touched = useRef(false);
  /** Somebody asked for all of it. */
  const whole = useRef(false);
  const due = useRef(0);
  const shown = useRef({ selected, task, seen });
  shown.current = { selected, task, seen };
  const first = useRef(matters);

  /** The view for a window of this size: as somebody has moved it, and else of all there is. */
  const viewIn = useCallback((width: number, height: number): View => {
    if (!view.current || !touched.current) view.current = whole.current ? fit(layout, width, height) : opening(layout, width, height, first.current);
    return view.current;
  }, [layout]);

  const paint = useCallback(() => {
    if (due.current) return;
    due.current = requestAnimationFrame(() => {
      due.current = 0;
      const element = canvas.current;
      if (!element) return;
      const { clientWidth: width, clientHeight: height } = element;
      const ratio = devicePixelRatio || 1;
      size(element, width, height, ratio);
      const now = viewIn(width, height);
      renderer.draw(element.getContext("2d", { alpha: false })!, width, height, ratio, now, shown.current);
      const small = map.current;
      // A map of what is seen as a whole would only lie in the way.
      if (small) small.hidden = showsAll(layout, now, width, height);
      if (small && !small.hidden) {
        size(small, small.clientWidth, small.clientHeight, ratio);
        renderer.minimap(small.getContext("2d")!, small.clientWidth, small.clientHeight, ratio, now, width, height);
      }
      element.dataset["drawn"] = String(Number(element.dataset["drawn"] ?? 0) + 1);
    });
  }, [layout, renderer, viewIn]);

  useEffect(paint, [paint, codes, selected, task, seen]);
  useEffect(() => () => cancelAnimationFrame(due.current), []);
  useEffect(() => {
    const observer = new ResizeObserver(paint);
    observer.observe(side.current!);
    const recolour = () => {
      renderer.recolour(palette());
      paint();
    };
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", recolour);
    const theme = new MutationObserver(recolour);
    theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return () => {
      observer.disconnect();
      theme.disconnect();
      dark.removeEventListener("change", recolour);
    };
  }, [paint, renderer]);

  const zoomBy = useCallback((factor: number, x?: number, y?: number) => {
    const now = view.current;
    const element = canvas.current;
    if (!now || !element) return;
    touched.current = true;
    const zoom = Math.min(LARGEST, Math.max(SMALLEST, now.zoom * factor));
    const px = x ?? element.clientWidth / 2;
    const py = y ?? element.clientHeight / 2;
    view.current = { zoom, x: px - ((px - now.x) * zoom) / now.zoom, y: py - ((py - now.y) * zoom) / now.zoom };
    paint();
  }, [paint]);

  const all = useCallback(() => {
    [touched.current, whole.current] = [false, true];
    paint();
  }, [paint]);

  const reveal = useCallback((index: number) => {
    const element = canvas.current;
    const group = layout.groups[index];
    if (!element || !group) return;
    // The panel that opens beside it has made the window narrower.
    const now = viewIn(element.clientWidth, element.clientHeight);
    const x = group.x * now.zoom + now.x;
    const y = group.y * now.zoom + now.y;
    const inside = x >= 0 && y >= 0 && x + group.width * now.zoom <= element.clientWidth && y + group.height * now.zoom <= element.clientHeight;
    if (inside && now.zoom >= 0.2) return;
    touched.current = true;
    const zoom = Math.max(now.zoom, 0.6);
    view.current = { zoom, x: element.clientWidth / 2 - (group.x + group.width / 2) * zoom, y: element.clientHeight / 2 - (group.y + group.height / 2) * zoom };
    paint();
  }, [layout, paint, viewIn]);

  useEffect(() => {
    if (selected !== null) reveal(selected);
  }, [selected, reveal]);

  // A wheel listener that keeps the page still can't be a passive one, and React's are.
  useEffect(() => {
    const element = canvas.current!;
    const wheel = (event: WheelEvent) => {
      event.preventDefault();
      zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.offsetX, event.offsetY);
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => element.removeEventListener("wheel", wheel);
  }, [zoomBy]);

  const drag = useRef<{ x: number; y: number; far: boolean } | null>(null);

  const key = (event: React.KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act: Record<string, () => void> = {
      "+": () => zoomBy(1.3),
      "=": () => zoomBy(1.3),
      "-": () => zoomBy(1 / 1.3),
      "0": all,
      "]": () => onFailed(1),
      "[": () => onFailed(-1),
      Escape: () => onSelect(null),
      s: () => onStep("in"),
      u: () => onStep("out"),
      Enter: () => { if (selected !== null) onOpen(selected); },
      t: () => { if (selected !== null) onOpen(selected); },
      ArrowRight: () => move(layout, selected, "right", onSelect),
      ArrowLeft: () => move(layout, selected, "left", onSelect),
      ArrowDown: () => move(layout, selected, "down", onSelect),
      ArrowUp: () => move(layout, selected, "up", onSelect),
    };
    const found = act[event.key];
    if (!found) return;
    event.preventDefault();
    found();
  };

  return (
    <div className="canvas-side" ref={side} role="group" tabIndex={0} aria-label="Graph. Arrow keys go from group to group, Enter opens one." onKeyDown={key}>
      <canvas
        ref={canvas}
        role="img"
        aria-label={label}
        onPointerDown={(event) => {
          drag.current = { x: event.clientX, y: event.clientY, far: false };
          event.currentTarget.setPointerCapture(event.pointerId);
        }}
        onPointerMove={(event) => {
          const from = drag.current;
          if (!from || !view.current) return;
          const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
          if (!from.far && Math.hypot(dx, dy) < 4) return;
          touched.current = true;
          view.current = { ...view.current, x: view.current.x + dx, y: view.current.y + dy };
          drag.current = { x: event.clientX, y: event.clientY, far: true };
          paint();
        }}
        onPointerUp={(event) => {
          const from = drag.current;
          drag.current = null;
          if (!from || from.far || !view.current) return;
          const frame = event.currentTarget.getBoundingClientRect();
          const hit = renderer.at(view.current, event.clientX - frame.left, event.clientY - frame.top);
          onSelect(hit?.group ?? null, hit?.task ?? null);
        }}
        onDoubleClick={(event) => {
          const frame = event.currentTarget.getBoundingClientRect();
          zoomBy(1.8, event.clientX - frame.left, event.clientY - frame.top);
        }}
      />
      <canvas
        ref={map}
        className="minimap"
        aria-hidden="true"
        onPointerDown={(event) => {
          const element = canvas.current;
          const now = view.current;
          if (!element || !now) return;
          const frame = event.currentTarget.getBoundingClientRect();
          const scale = Math.min(frame.width / Math.max(layout.width, 1), frame.height / Math.max(layout.height, 1)) * 0.92;
          const x = (event.clientX - frame.left - (frame.width - layout.width * scale) / 2) / scale;
          const y = (event.clientY - frame.top - (frame.height - layout.height * scale) / 2) / scale;
          touched.current = true;
          view.current = { zoom: now.zoom, x: element.clientWidth / 2 - x * now.zoom, y: element.clientHeight / 2 - y * now.zoom };
          paint();
        }}
      />
      <div className="zoom">
        <button type="button" className="button small" aria-label="Larger" onClick={() => zoomBy(1.3)}>+</button>
        <button type="button" className="button small" aria-label="Smaller" onClick={() => zoomBy(1 / 1.3)}>−</button>
        <button type="button" className="button small" onClick={all}>Fit</button>
      </div>
    </div>
  );
}

function size(canvas: HTMLCanvasElement, width: number, height: number, ratio: number): void {
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
}

type Way = "left" | "right" | "up" | "down";

/** Follows an edge left or right, or goes to the next group of the same depth. */
function move(layout: Layout, selected: number | null, way: Way, onSelect: (group: number) => void): void {
  if (selected === null) {
    onSelect(0);
    return;
  }
  const from = layout.groups[selected]!;
  const near = (index: number) => Math.abs(layout.groups[index]!.y - from.y);
  let options: number[];
  if (way === "right") options = layout.edges.filter((edge) => edge.from === selected).map((edge) => edge.to);
  else if (way === "left") options = layout.edges.filter((edge) => edge.to === selected).map((edge) => edge.from);
  else options = layout.groups.flatMap((group, index) => (group.depth === from.depth && (way === "down" ? group.y > from.y : group.y < from.y) ? [index] : []));
  const best = options.sort((one, other) => near(one) - near(other))[0];
  if (best !== undefined) onSelect(best);
}
