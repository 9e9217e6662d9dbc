// The one field, and what is asked beside its words: examples, what is not wanted, filters.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { details, thumbnail } from "./api.js";
import { isHeld, uriOf } from "./examples.js";
import { Filters } from "./filters.js";
import { t } from "./language.js";
import { go } from "./query.js";
import { Name } from "./text.js";

const PAUSE = 140; // ms after a key in which no other one comes

const Example = ({ name }) => {
  const [found, setFound] = useState(null);
  useEffect(() => {
    setFound(null);
    if (!isHeld(name)) details(name).then(setFound, () => {});
  }, [name]);
  const uri = isHeld(name) ? uriOf(name) : found?.thumbnail;
  const sound = isHeld(name) ? uri?.startsWith("data:audio/") : found?.kind === "audio";
  return html`<span class="example">
    ${sound || !uri ? html`<span class="note" aria-hidden="true">♪</span>` : html`<img src=${uri} alt="" />`}
    <span>${t("moreLike")} ${found ? html`<${Name} text=${found.name} />` : t("dropped")}</span>
  </span>`;
};

export const Chip = ({ children, remove, what }) => html`<li class="chip">
  ${children}
  <button aria-label=${t("remove", { what })} onClick=${remove}>×</button>
</li>`;

export const SearchBar = ({ query, facets, onDown, onFile }) => {
  const field = useRef(null);
  const file = useRef(null);
  const [text, setText] = useState(query.q);
  const timer = useRef(0);
  const sent = useRef(query.q);
  const [open, setOpen] = useState(false);

  // The address may change without us: back, forward, an example that is clicked.
  useEffect(() => {
    if (query.q !== sent.current) setText(query.q);
    sent.current = query.q;
  }, [query.q]);

  useEffect(() => {
    const slash = (event) => {
      const typing = event.target.closest?.("input, textarea, select, [contenteditable], dialog");
      if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      field.current.focus();
      field.current.select();
    };
    addEventListener("keydown", slash);
    return () => removeEventListener("keydown", slash);
  }, []);

  const send = (words, replace) => {
    clearTimeout(timer.current);
    if (words === sent.current) return;
    // All that is typed in one go is one step back.
    go({ q: words, view: "", item: null, all: false }, { replace });
    sent.current = words;
  };
  const type = (event) => {
    const words = event.currentTarget.value;
    setText(words);
    clearTimeout(timer.current);
    const started = Boolean(sent.current.trim());
    timer.current = setTimeout(() => send(words, started && Boolean(words.trim())), PAUSE);
  };
  const key = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") send(text, false);
    else if (event.key === "ArrowDown") onDown();
    else if (event.key === "Escape" && text) {
      setText("");
      send("", false);
    } else return;
    event.preventDefault();
  };
  const without = (name) => (name === "like" ? { like: [] } : { [name]: "" });

  return html`<div class="ask-bar" role="search">
    <div class="field">
      <svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="10.5" cy="10.5" r="6.5" /><path d="m15.5 15.5 5 5" /></svg>
      <input
        ref=${field}
        type="search"
        id="words"
        value=${text}
        placeholder=${t("searchFor")}
        aria-label=${t("searchFor")}
        aria-keyshortcuts="/"
        autocomplete="off"
        spellcheck="false"
        dir="auto"
        onInput=${type}
        onKeyDown=${key}
      />
      <kbd aria-hidden="true">/</kbd>
      <button class="icon" title=${t("byExample")} aria-label=${t("byExample")} onClick=${() => file.current.click()}>
        <svg viewBox="0 0 24 24" aria-hidden="true"><rect x="3.5" y="5" width="17" height="14" rx="3" /><path d="m4 16 5-4.500 4 3.500 3-2.500 4 3.500" /><circle cx="15.500" cy="9.500" r="1.200" /></svg>
      </button>
      <input ref=${file} type="file" accept="image/*,audio/*" hidden onChange=${(event) => onFile(event.currentTarget.files[0])} />
      <button class="icon" aria-expanded=${open} aria-controls="filters" title=${t("filters")} aria-label=${t("filters")} onClick=${() => setOpen(!open)}>
        <svg viewBox="0 0 24 24" aria-hidden="true"><path d="M4 7h16M7 12h10M10 17h4" /></svg>
      </button>
    </div>
    <${Filters} query=${query} facets=${facets} open=${open}>
      ${query.like.map(
        (name) => html`<${Chip} key=${name} what=${t("moreLike")} remove=${() => go(without("like"))}><${Example} name=${name} /><//>`,
      )}
    <//>
  </div>`;
};
