// What fits a query: asked for as it changes, stale answers dropped, the rest of a long list fetched behind the first.
import { useEffect, useState } from "../vendor/preact-htm.js";
import { Failure, get, post } from "./api.js";
import { isHeld, uriOf } from "./examples.js";
import { t } from "./language.js";
import { FILTERS, hasWords } from "./query.js";

const FIRST = 150; // hits that a screen or two have room for
const MOST = 2000;
const DIGEST = 32; // letters of one

const fromHit = (hit) => ({
  ...hit,
  kind: hit.kind[0],
  ratio: hit.width && hit.height ? hit.width / hit.height : 0,
  moment: hit.taken_at ? Date.parse(`${hit.taken_at}Z`) / 1000 : null,
});

/** A list whose items are made when they are looked at: there may be 100,000. */
const fromColumns = (columns) => ({
  length: columns.ids.length,
  kindOf: (n) => columns.kinds[n],
  ratioOf: (n) => columns.ratios[n],
  momentOf: (n) => columns.moments[n],
  idOf: (n) => columns.ids[n],
  at: (n) => ({
    id: columns.ids[n],
    name: columns.names[n],
    content: columns.contents.slice(DIGEST * n, DIGEST * (n + 1)),
    kind: columns.kinds[n],
    ratio: columns.ratios[n],
    moment: columns.moments[n],
  }),
});

const fromHits = (hits) => ({
  length: hits.length,
  kindOf: (n) => hits[n].kind,
  ratioOf: (n) => hits[n].ratio,
  momentOf: (n) => hits[n].moment,
  idOf: (n) => hits[n]?.id,
  at: (n) => hits[n],
});

export const none = fromHits([]);

const filtersOf = (query) => {
  const given = {};
  for (const name of FILTERS) if (query[name]) given[name] = query[name];
  return given;
};

const exampleOf = (name) => {
  if (!isHeld(name)) return name;
  const uri = uriOf(name);
  if (uri === undefined) throw new Failure(t("exampleGone"), 400);
  return uri;
};

const search = async (query, signal, show) => {
  const asked = filtersOf(query);
  if (asked.near) asked.near = asked.near.split(",").map(Number);
  if (query.q.trim()) asked.q = [query.q.trim()];
  if (query.like.length) asked.like = query.like.map(exampleOf);
  if (query.without.length) asked.without = query.without;
  // With weaker ones too the best are asked for, and put in order of time here.
  if (query.all) asked.all = true;
  else if (query.sort) asked.sort = query.sort;
  let hits = [];
  let more = true;
  for (const top of [FIRST, MOST - FIRST]) {
    if (!more) break;
    const found = await post("/api/search", { ...asked, top, offset: hits.length }, signal);
    hits = [...hits, ...found.hits.map(fromHit)];
    more = found.more;
    const sorted = query.all && query.sort === "date" ? hits.toSorted((a, b) => (b.moment ?? 0) - (a.moment ?? 0)) : hits;
    show({ items: fromHits(sorted), strong: found.strong, weaker: found.weaker, cut: more });
  }
};

const browse = async (query, signal, show) => {
  const filters = new URLSearchParams(filtersOf(query));
  const some = await get(`/api/outline?${filters}&top=${FIRST}`, signal);
  show({ items: fromColumns(some), strong: some.ids.length, weaker: 0, cut: false });
  if (some.ids.length < FIRST) return;
  const all = await get(`/api/outline?${filters}`, signal);
  show({ items: fromColumns(all), strong: all.ids.length, weaker: 0, cut: false });
};

/** {items, strong, weaker, cut, state: "asking" | "there" | "failed", error}. version: another one asks again. */
export const useResults = (query, version) => {
  const [found, setFound] = useState({ items: none, strong: 0, weaker: 0, state: "asking", for: "" });
  const { item: _, view, ...rest } = query;
  const key = JSON.stringify([rest, version]);
  useEffect(() => {
    if (view) return undefined;
    const stop = new AbortController();
    setFound((before) => ({ ...before, state: "asking" }));
    const show = (next) => stop.signal.aborted || setFound({ ...next, state: "there", for: key });
    (hasWords(query) ? search : browse)(query, stop.signal, show).catch((error) => {
      if (!stop.signal.aborted) setFound({ items: none, strong: 0, weaker: 0, state: "failed", error, for: key });
    });
    return () => stop.abort();
  }, [key, view]);
  return found;
};
