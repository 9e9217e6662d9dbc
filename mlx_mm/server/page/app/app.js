// The page as a whole: its top, one of its three views, what is open over it, and the panel for questions.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { get, onState } from "./api.js";
import { AskPanel } from "./ask.js";
import { DuplicatesView } from "./duplicates.js";
import { useIndexEvents } from "./events.js";
import { keep } from "./examples.js";
import { IndexView } from "./index_view.js";
import { t } from "./language.js";
import { Locked } from "./locked.js";
import { back, go, nothing, useQuery } from "./query.js";
import { useResults } from "./results.js";
import { SearchBar } from "./search_bar.js";
import { SearchView } from "./search_view.js";
import { SelectionBar } from "./selection_bar.js";
import { Viewer } from "./viewer.js";

const VIEWS = { "": "search", duplicates: "duplicates", index: "index" };

const useServer = () => {
  const [state, setState] = useState("there");
  useEffect(() => onState(setState), []);
  return state;
};

/**
 * What the server says of itself and of its index; asked again once it is back, or the index has changed. What counts
 * the whole index is asked behind what is looked at first.
 */
const useFacts = (there, shows, version) => {
  const [facts, setFacts] = useState({ about: null, facets: null, models: [] });
  const set = (name) => (found) => setFacts((before) => ({ ...before, [name]: found }));
  useEffect(() => {
    if (!there) return;
    get("/api/about").then(set("about"), () => {});
    get("/v1/models").then((found) => set("models")(found.data), () => {});
  }, [there, version]);
  useEffect(() => {
    if (there && shows) get("/api/facets").then(set("facets"), () => {});
  }, [there, shows, version]);
  return facts;
};

const firstOf = (list) => [...(list ?? [])].find((file) => /^(image|audio)\//.test(file.type));

const Top = ({ query, children, asks, toggleAsk }) => html`<header class="top">
  <a class="skip" href="#content">${t("skip")}</a>
  <div class="bar">
    <a class="mark" href="/" onClick=${(event) => { event.preventDefault(); go(nothing); }}>mlx_mm</a>
    <nav aria-label=${t("views")}>
      ${Object.entries(VIEWS).map(
        ([view, name]) => html`<a
          href=${view ? `/?view=${view}` : "/"}
          aria-current=${query.view === view ? "page" : undefined}
          onClick=${(event) => { event.preventDefault(); go({ ...nothing, view }); }}
        >${t(name)}</a>`,
      )}
    </nav>
    <button class="ask-toggle" aria-expanded=${asks} aria-controls="ask" onClick=${toggleAsk}>${t("ask")}</button>
  </div>
  ${children}
</header>`;

export const App = () => {
  const query = useQuery();
  const server = useServer();
  const index = useIndexEvents(server);
  const found = useResults(query, `${index.version} ${server === "there"}`);
  const shows = useRef(false);
  shows.current ||= Boolean(query.view) || found.state !== "asking";
  const facts = useFacts(server === "there", shows.current, index.version);
  const [place, setPlace] = useState(0);
  const [selected, setSelected] = useState(new Set());
  const [asks, setAsks] = useState(false);
  const [asked, setAsked] = useState([]); // items that the next question is about
  const [notice, setNotice] = useState("");
  const [over, setOver] = useState(false);
  const items = found.items;
  // A new answer may be shorter than the one in which the place was.
  const active = [Math.max(0, Math.min(place, items.length - 1)), setPlace];

  const focusGrid = () => requestAnimationFrame(() => document.querySelector('.grid [tabindex="0"]')?.focus({ preventScroll: true }));
  const askAbout = (ids) => {
    setAsked((before) => [...new Set([...before, ...ids])].slice(0, 8));
    setAsks(true);
  };
  const on = {
    open: (n) => go({ item: items.idOf(n) }),
    like: (n) => go({ ...nothing, like: [String(items.idOf(n))] }),
    ask: (n) => askAbout(selected.size ? [...selected] : [items.idOf(n)]),
    select: (ids, only = false) =>
      setSelected((before) => {
        const next = new Set(only ? [] : before);
        for (const id of ids) if (only || !next.delete(id)) next.add(id);
        return next;
      }),
    leave: () => (selected.size ? setSelected(new Set()) : document.getElementById("words")?.focus()),
  };

  const example = async (file) => {
    if (!file) return;
    const name = await keep(file);
    if (name) go({ ...nothing, like: [name] });
    setNotice(name ? "" : t("notReadable"));
  };
  const handlers = useRef({});
  handlers.current = { example };
  useEffect(() => {
    const paste = (event) => {
      const file = firstOf(event.clipboardData?.files);
      if (file && !event.target.closest?.(".ask")) {
        event.preventDefault();
        handlers.current.example(file);
      }
    };
    const drag = (event) => {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
      event.preventDefault();
      setOver(event.type === "dragover");
      if (event.type === "drop") handlers.current.example(firstOf(event.dataTransfer.files) ?? event.dataTransfer.files[0]);
    };
    const events = ["dragover", "dragleave", "drop"];
    addEventListener("paste", paste);
    events.forEach((name) => addEventListener(name, drag));
    return () => {
      removeEventListener("paste", paste);
      events.forEach((name) => removeEventListener(name, drag));
    };
  }, []);

  useEffect(() => {
    document.title = [query.q, query.view && t(VIEWS[query.view] ?? "search"), "mlx_mm"].filter(Boolean).join(" · ");
  }, [query.q, query.view]);

  // The grid has the focus again once the viewer is closed, at what was open last.
  const wasOpen = useRef(null);
  useEffect(() => {
    if (wasOpen.current !== null && query.item === null) focusGrid();
    wasOpen.current = query.item;
  }, [query.item]);

  if (server === "locked") return html`<${Locked} />`;
  const views = {
    "": () => html`<${SearchView} query=${query} found=${found} active=${active} selected=${selected} on=${on}
      total=${facts.facets && Object.values(facts.facets.kinds).reduce((sum, n) => sum + n, 0)} />`,
    duplicates: () => html`<${DuplicatesView} version=${index.version} />`,
    index: () => html`<${IndexView} facets=${facts.facets} about=${facts.about} events=${index} />`,
  };
  return html`<div class="page ${asks ? "asks" : ""}">
    <${Top} query=${query} asks=${asks} toggleAsk=${() => setAsks(!asks)}>
      ${!query.view && html`<${SearchBar} query=${query} facets=${facts.facets} onDown=${focusGrid} onFile=${example} />`}
    <//>
    ${server === "gone" && html`<p class="banner" role="alert">${t("gone")}</p>`}
    ${notice && html`<p class="banner" role="alert">${notice} <button class="link" onClick=${() => setNotice("")}>${t("close")}</button></p>`}
    <main id="content" tabindex="-1">${(views[query.view] ?? views[""])()}</main>
    ${over && html`<div class="over" aria-hidden="true">${t("dropHere")}</div>`}
    ${query.item !== null &&
    html`<${Viewer} id=${query.item} items=${items} active=${active} about=${facts.about}
      close=${() => back({ item: null })} like=${(id) => go({ ...nothing, like: [String(id)] })}
      ask=${(id) => { askAbout([id]); back({ item: null }); }} />`}
    ${selected.size > 0 && html`<${SelectionBar} selected=${selected} clear=${() => setSelected(new Set())} ask=${() => askAbout([...selected])} />`}
    <${AskPanel} open=${asks} close=${() => { setAsks(false); focusGrid(); }} models=${facts.models} about=${facts.about}
      items=${asked} setItems=${setAsked} />
  </div>`;
};
