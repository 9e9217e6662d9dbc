// What is asked for, as the address of the page has it: so back, forward, reload and a second tab work.
import { useEffect, useState } from "../vendor/preact-htm.js";

const LISTS = { without: /./, like: /^(\d{1,15}|here-\w+)$/ }; // an item, or a file of this tab
const TEXTS = ["q", "since", "until", "near", "camera", "kind", "folder", "tag", "sort", "view"];
export const FILTERS = ["kind", "since", "until", "near", "camera", "folder", "tag"];

/** Every field is there: texts are "" and lists [] where the address has none. item: the number of what is open. */
export const parse = (address) => {
  const given = new URLSearchParams(address);
  const query = {};
  for (const name of TEXTS) query[name] = given.get(name) ?? "";
  for (const name in LISTS) query[name] = given.getAll(name).filter((one) => LISTS[name].test(one));
  query.all = given.get("all") === "1";
  query.item = /^\d{1,15}$/.test(given.get("item") ?? "") ? Number(given.get("item")) : null;
  return query;
};

export const format = (query) => {
  const made = new URLSearchParams();
  for (const name of TEXTS) if (query[name]) made.set(name, query[name]);
  for (const name in LISTS) for (const one of query[name]) made.append(name, one);
  if (query.all) made.set("all", "1");
  if (query.item !== null) made.set("item", query.item);
  const text = made.toString();
  return text ? `/?${text}` : "/";
};

const listeners = new Set();
const tell = () => listeners.forEach((listener) => listener(parse(location.search)));
addEventListener("popstate", tell);

/** Change some fields. replace: without a step that "back" takes. */
export const go = (changes, { replace = false } = {}) => {
  const next = format({ ...parse(location.search), ...changes });
  if (next === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](replace ? history.state : { ours: true }, "", next);
  tell();
};

/** Take the last step back where it was one of ours; else only change these fields. */
export const back = (changes) => {
  if (history.state?.ours) history.back();
  else go(changes, { replace: true });
};

export const nothing = parse("");
export const hasWords = (query) => Boolean(query.q.trim() || query.like.length || query.without.length);
export const hasFilters = (query) => FILTERS.some((name) => query[name]);

export const useQuery = () => {
  const [query, setQuery] = useState(() => parse(location.search));
  useEffect(() => {
    listeners.add(setQuery);
    return () => listeners.delete(setQuery);
  }, []);
  return query;
};
