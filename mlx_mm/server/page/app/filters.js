// What narrows a search: choices from what the index has, and a chip for each that is in force.
import { html, useState } from "../vendor/preact-htm.js";
import { day, number, t } from "./language.js";
import { Chip } from "./search_bar.js";
import { inOneLine, Name } from "./text.js";
import { FILTERS, go } from "./query.js";

const KINDS = { image: "pictures", audio: "sounds", video: "videos" };
const lastOf = (path) => path.split("/").filter(Boolean).pop() ?? path;

const shownAs = (name, value) => {
  if (name === "kind") return t(KINDS[value] ?? "kind");
  if (name === "near") return t("nearHere", { km: number(Number(value.split(",")[2]) / 1000) });
  if (name === "since" || name === "until") return `${t(name)} ${/^\d{4}-\d\d-\d\d$/.test(value) ? day(`${value}T00:00:00`) : value}`;
  return html`<${Name} text=${name === "folder" ? lastOf(value) : value} title=${inOneLine(value)} />`;
};

const Choice = ({ name, label, counts, value, show = (one) => one }) => {
  const all = Object.entries(counts ?? {});
  if (!all.length) return null;
  return html`<label class="pill">
    <span>${label}</span>
    <select value=${value} onChange=${(event) => go({ [name]: event.currentTarget.value, item: null })}>
      <option value="">${t("any")}</option>
      ${all.map(([one, count]) => html`<option value=${one}>${inOneLine(show(one))} (${number(count)})</option>`)}
    </select>
  </label>`;
};

const Day = ({ name, value }) => html`<label class="pill">
  <span>${t(name)}</span>
  <input type="date" value=${value.length === 10 ? value : ""} onChange=${(event) => go({ [name]: event.currentTarget.value, item: null })} />
</label>`;

const Unwanted = ({ query }) => {
  const [text, setText] = useState("");
  const add = (event) => {
    event.preventDefault();
    if (text.trim()) go({ without: [...query.without, text.trim()], item: null });
    setText("");
  };
  return html`<form class="pill" onSubmit=${add}>
    <label><span>${t("without")}</span>
    <input type="text" value=${text} dir="auto" size="10" onInput=${(event) => setText(event.currentTarget.value)} /></label>
  </form>`;
};

export const Filters = ({ query, facets, open, children }) => {
  const year = query.since && query.since === query.until && query.since.length === 4 ? query.since : "";
  const setYear = (event) => go({ since: event.currentTarget.value, until: event.currentTarget.value, item: null });
  const shown = FILTERS.filter((name) => query[name] && !(name === "until" && year));
  const remove = (name) => go(name === "since" && year ? { since: "", until: "" } : { [name]: "" });
  const years = Object.entries(facets?.years ?? {});
  return html`
    ${open &&
    html`<div class="filters" id="filters">
      <${Choice} name="kind" label=${t("kind")} counts=${facets?.kinds} value=${query.kind} show=${(one) => t(KINDS[one] ?? one)} />
      ${years.length > 0 &&
      html`<label class="pill">
        <span>${t("year")}</span>
        <select value=${year} onChange=${setYear}>
          <option value="">${t("any")}</option>
          ${years.map(([one, count]) => html`<option value=${one}>${one} (${number(count)})</option>`)}
        </select>
      </label>`}
      <${Day} name="since" value=${query.since} />
      <${Day} name="until" value=${query.until} />
      <${Choice} name="camera" label=${t("camera")} counts=${facets?.cameras} value=${query.camera} />
      <${Choice} name="folder" label=${t("folder")} counts=${facets?.folders} value=${query.folder} show=${lastOf} />
      <${Choice} name="tag" label=${t("tag")} counts=${facets?.tags} value=${query.tag} />
      <${Unwanted} query=${query} />
    </div>`}
    ${(shown.length > 0 || query.without.length > 0 || query.like.length > 0) &&
    html`<ul class="chips" role="list" aria-label=${t("inForce")}>
      ${children}
      ${query.without.map(
        (word) => html`<${Chip} key=${`-${word}`} what=${inOneLine(word)} remove=${() => go({ without: query.without.filter((one) => one !== word) })}>
          <span>${t("without")} <${Name} text=${word} /></span>
        <//>`,
      )}
      ${shown.map(
        (name) => html`<${Chip} key=${name} what=${t(name === "near" ? "place" : name)} remove=${() => remove(name)}>
          <span>${name === "since" && year ? year : shownAs(name, query[name])}</span>
        <//>`,
      )}
    </ul>`}
  `;
};
