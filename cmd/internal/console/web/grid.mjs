// A list of which only what is seen is there, so that 100,000 rows scroll as ten do.
import { Component } from "./vendor/preact.mjs";
import { useCallback, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.mjs";
import { html } from "./ui.mjs";

const spare = 8; // rows above and below what is seen

// Row is rendered again only if something about it has changed: most of them just move.
class Row extends Component {
  shouldComponentUpdate(next) {
    const p = this.props;
    return ["row", "at", "chosen", "columns", "card", "height"].some((k) => p[k] !== next[k]);
  }

  render({ row: r, at, chosen, columns, card, height, choose }) {
    return html`<div role="row" id=${"row-" + at} aria-rowindex=${at + (card ? 1 : 2)} aria-selected=${chosen}
        class=${`row${chosen ? " chosen" : ""} ${r.tone || ""}`} style=${{ top: `${at * height}px`, height: `${height}px` }} onClick=${() => choose(r.key)}>
      ${card ? html`<div role="gridcell" class="card">${card(r)}</div>` : columns.map(([, kind, cell]) => html`<div role="gridcell" class=${kind}>${cell(r)}</div>`)}
    </div>`;
  }
}

// where is the index of a key. The rows near to where it was are looked at first.
function where(rows, key, near) {
  for (let d = 0; d < rows.length; d++) {
    if (rows[near + d]?.key === key) return near + d;
    if (rows[near - d]?.key === key) return near - d;
    if (near + d >= rows.length && near - d < 0) break;
  }
  return -1;
}

// Grid shows rows, which have a key each. Rows may come and go above what is seen: what is seen stays where it is.
// The columns and the card are the same objects for as long as they look the same.
//   columns: [name, class, cell of a row]; template: their widths, as grid-template-columns
//   card: a row on a phone, instead of the columns; height: of a row, in pixels
//   chosen, choose: the key of the chosen row; press: what a key does with it, and whether it was one
//   end: called near the end of the rows
export function Grid({ label, columns, template, card, height, rows, chosen, choose, press, end, children }) {
  const box = useRef(null);
  const [view, setView] = useState({ top: 0, tall: 600 });
  const anchor = useRef(null); // what must not move: a row's key and its distance from the top
  const look = useCallback(() => {
    const el = box.current;
    if (!el) return;
    const top = Math.floor(el.scrollTop / height), tall = el.clientHeight;
    setView((v) => (v.top === top && v.tall === tall ? v : { top, tall }));
  }, [height]);
  useLayoutEffect(() => {
    const sizes = new ResizeObserver(look);
    sizes.observe(box.current);
    return () => sizes.disconnect();
  }, [look]);

  const known = useRef(0); // where the chosen row was
  const index = useMemo(() => (chosen === undefined ? -1 : where(rows, chosen, known.current)), [rows, chosen]);
  known.current = Math.max(0, index);
  // The first row seen stays where it is, but at the top, where new rows are to be seen; there it is the chosen one.
  useLayoutEffect(() => {
    const el = box.current, a = anchor.current;
    if (a) {
      const i = where(rows, a.key, a.index);
      if (i >= 0 && i !== a.index) el.scrollTop = i * height - a.from;
    }
    const seen = index >= 0 && index * height >= el.scrollTop - height && index * height < el.scrollTop + el.clientHeight;
    const i = seen ? index : Math.floor(el.scrollTop / height);
    anchor.current = rows[i] && (seen || el.scrollTop > height / 2) ? { key: rows[i].key, index: i, from: i * height - el.scrollTop } : null;
    look();
  }, [rows, view, index, height]);

  const first = Math.max(0, view.top - spare);
  const last = Math.min(rows.length, view.top + Math.ceil(view.tall / height) + spare);
  useLayoutEffect(() => {
    if (end && last >= rows.length - spare) end();
  }, [last, rows.length, end]);

  const move = (to) => {
    const i = Math.max(0, Math.min(rows.length - 1, to));
    if (!rows[i]) return;
    choose(rows[i].key);
    const el = box.current, head = card ? 0 : 32;
    anchor.current = null;
    if (i * height < el.scrollTop) el.scrollTop = i * height;
    if ((i + 1) * height > el.scrollTop + el.clientHeight - head) el.scrollTop = (i + 1) * height - el.clientHeight + head;
  };
  const page = Math.max(1, Math.floor(view.tall / height) - 2);
  const keys = (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || (e.target !== box.current && e.type === "keydown" && e.key === "Enter")) return;
    const to = { j: index + 1, ArrowDown: index + 1, k: index - 1, ArrowUp: index - 1, PageDown: index + page, PageUp: index - page, Home: 0, End: rows.length - 1 }[e.key];
    if (to !== undefined) move(to);
    else if (index < 0 || !press?.(e.key, rows[index])) return;
    e.preventDefault();
    e.stopPropagation();
  };
  return html`<div class=${"grid" + (card ? " cards" : "")} role="grid" tabindex="0" aria-label=${label} aria-rowcount=${rows.length + (card ? 0 : 1)} aria-colcount=${columns.length}
      aria-activedescendant=${index >= first && index < last ? "row-" + index : undefined}
      ref=${box} onScroll=${look} onKeyDown=${keys} data-keys style=${{ "--template": template }}>
    ${!card && html`<div role="rowgroup" class="grid-head"><div role="row" aria-rowindex="1" class="row">${columns.map(([name, kind]) => html`<div role="columnheader" class=${kind}>${name}</div>`)}</div></div>`}
    <div role="rowgroup" class="grid-body" style=${{ height: `${rows.length * height}px` }}>
      ${rows.slice(first, last).map((r, n) => html`<${Row} key=${r.key} row=${r} at=${first + n} chosen=${first + n === index} columns=${columns} card=${card} height=${height} choose=${choose} />`)}
    </div>
    ${!rows.length && html`<div role="rowgroup"><div role="row"><div role="gridcell" class="nothing">${children}</div></div></div>`}
  </div>`;
}
