// Charts over time.
import { useEffect, useLayoutEffect, useRef } from "./vendor/hooks.mjs";
import { html, useMedia } from "./ui.mjs";
import { useStore } from "./store.mjs";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Chart draws data = [seconds since 1970, values of the first line, ...]. The lines are {label, colour, bars}; pick gets the index of
// the time that was clicked. The text says the same to whoever does not see it.
export function Chart({ label, data, lines, format, height = 140, pick }) {
  const box = useRef(null), chart = useRef(null), latest = useRef({});
  latest.current = { data, pick };
  const { theme } = useStore();
  const dark = useMedia("(prefers-color-scheme: dark)");
  useEffect(() => {
    let gone = false, sizes;
    import("./vendor/uplot.mjs").then(({ default: UPlot }) => {
      if (gone) return;
      const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
      const series = lines.map((l) => ({
        label: l.label, stroke: colour(l.colour), width: l.bars ? 0 : 1.5, points: { show: false },
        fill: l.bars ? colour(l.colour) : l.fill && colour(l.fill),
        paths: l.bars ? UPlot.paths.bars({ size: [0.8, 24] }) : undefined,
      }));
      chart.current = new UPlot({
        width: box.current.clientWidth, height, padding: [8, 24, 0, 0], legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { show: !lines[0].bars }, y: false },
        scales: { x: { range: (u, low, high) => edges(u.data[0], low, high, lines[0].bars) }, y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
        axes: [{ ...axis, size: 24, space: 70, values: (_, at) => at.map((t) => stamp(t, at.at(-1) - at[0])) }, { ...axis, size: 62, space: 34, values: (_, all) => all.map((v) => (v ? format(v) : "0")) }],
        series: [{}, ...series],
        hooks: { setCursor: [(u) => say(u, lines, format, box.current)] },
      }, latest.current.data, box.current.firstChild);
      chart.current.over.addEventListener("click", () => {
        const i = chart.current?.cursor.idx;
        if (i !== null && i !== undefined) latest.current.pick?.(i);
      });
      sizes = new ResizeObserver(([e]) => chart.current?.setSize({ width: Math.max(100, Math.floor(e.contentRect.width)), height }));
      sizes.observe(box.current);
    });
    return () => {
      gone = true;
      sizes?.disconnect();
      chart.current?.destroy();
      chart.current = null;
    };
  }, [theme, dark, height, lines]);
  useLayoutEffect(() => chart.current?.setData(data), [data]);
  return html`<div class=${"chart" + (pick ? " picks" : "")} role="img" aria-label=${label} ref=${box} style=${{ minHeight: `${height}px` }}><div></div><p class="chart-says" aria-hidden="true"></p></div>`;
}

// edges leave room for half a bar at either end. One point, just after a start, has a minute or a bar around it: the chart proposes
// three years.
export function edges(times, low, high, bars) {
  high = times.length === 1 ? times[0] : high ?? Date.now() / 1000;
  low = Math.min(low ?? high, high - 60);
  const half = bars && times.length > 1 ? (times[1] - times[0]) / 2 : bars ? 1800 : 0;
  return [low - half, high + half];
}

const two = (n) => String(n).padStart(2, "0");

function stamp(seconds, over) {
  const d = new Date(seconds * 1000);
  const time = `${two(d.getHours())}:${two(d.getMinutes())}`;
  if (over < 240) return `${time}:${two(d.getSeconds())}`;
  return over > 86400 && time === "00:00" ? `${two(d.getMonth() + 1)}-${two(d.getDate())}` : time;
}

// say writes what is under the cursor above the chart.
function say(u, lines, format, box) {
  const i = u.cursor.idx, out = box?.querySelector(".chart-says");
  if (!out) return;
  const full = i !== null && i !== undefined && u.data[0].length;
  out.textContent = full ? `${new Date(u.data[0][i] * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: lines[0].bars ? undefined : "2-digit" })}  ` +
    lines.map((l, n) => `${l.label} ${format(l.value ? l.value(u.data, i) : u.data[n + 1][i] ?? 0)}`).join("  ") : "";
}
