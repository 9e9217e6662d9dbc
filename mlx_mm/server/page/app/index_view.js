// The index itself: what is in it, bringing it up to date, and what could not be read.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { get, post } from "./api.js";
import { bytes, choose, language, languages, number, t } from "./language.js";
import { inOneLine, Name } from "./text.js";

const KINDS = { image: "pictures", audio: "sounds", video: "videos" };
const COUNTED = ["new", "changed", "moved", "copied", "missing", "failed"];

const Progress = ({ events }) => {
  if (events.state !== "refreshing") return null;
  const label = events.total ? t("readOf", { n: number(events.done), of: number(events.total) }) : t("looking");
  return html`<div class="progress"><progress aria-label=${t("refresh")} max=${events.total || undefined} value=${events.total ? events.done : undefined} />
    <span role="status">${label}</span></div>`;
};

const Report = ({ report }) => html`<p role="status">${COUNTED.filter((name) => report[name] > 0)
  .map((name) => t(`report_${name}`, { n: number(report[name]) }))
  .join(" · ") || t("upToDate")}</p>`;

const Unreadable = ({ files }) => {
  if (!files?.length) return null;
  return html`<details class="card"><summary>${t("unreadable", { n: number(files.length) })}</summary>
    <ul role="list">${files.map(({ path, reason }) => html`<li key=${path}><${Name} dir="ltr" text=${path} /><small><bdi>${inOneLine(reason)}</bdi></small></li>`)}</ul>
  </details>`;
};

export const IndexView = ({ facets, about, events }) => {
  const [stats, setStats] = useState(null);
  const [files, setFiles] = useState(null);
  const [folder, setFolder] = useState("");
  const [error, setError] = useState("");
  const busy = events.state === "refreshing";
  useEffect(() => {
    get("/api/index").then(setStats, (failure) => setError(failure.message));
    get("/api/unreadable").then((found) => setFiles(found.files), () => {});
  }, [events.version]);
  const refresh = async (asked) => {
    setError("");
    try {
      await post("/api/refresh", asked);
    } catch (failure) {
      setError(failure.message);
    }
  };
  const add = (event) => {
    event.preventDefault();
    if (folder.trim()) refresh({ folders: [folder.trim()] });
  };
  return html`<section class="index">
    <h1>${t("index")}</h1>
    <ul class="numbers" role="list">
      ${Object.entries(facets?.kinds ?? {}).map(([kind, count]) => html`<li key=${kind}><b>${number(count)}</b> ${t(KINDS[kind] ?? kind)}</li>`)}
      ${stats && html`<li><b>${bytes(Object.values(stats.bytes).reduce((sum, size) => sum + size, 0))}</b> ${t("onDisk")}</li>`}
    </ul>
    <h2>${t("folders")}</h2>
    <ul class="card" role="list">${(stats?.folders ?? []).map((path) => html`<li key=${path}><${Name} dir="ltr" text=${path} /></li>`)}</ul>
    <form class="add" onSubmit=${add}>
      <label for="folder">${t("addFolderHow")}</label>
      <div><input id="folder" type="text" dir="ltr" placeholder="~/Pictures" value=${folder} spellcheck="false" onInput=${(event) => setFolder(event.currentTarget.value)} />
      <button disabled=${busy}>${t("addFolder")}</button></div>
    </form>
    <div class="line">
      <button class="main" disabled=${busy} onClick=${() => refresh({})}>${t("refresh")}</button>
      ${files?.length > 0 && html`<button disabled=${busy} onClick=${() => refresh({ retry: true })}>${t("readAgain")}</button>`}
      <${Progress} events=${events} />
    </div>
    ${(error || events.error) && html`<p role="alert" class="wrong">${inOneLine(error || events.error)}</p>`}
    ${events.report && html`<${Report} report=${events.report} />`}
    <${Unreadable} files=${files} />
    <h2>${t("models")}</h2>
    <ul class="card" role="list">${(stats?.spaces ?? []).map(
      (space) => html`<li key=${space.model}><${Name} text=${space.model} /> <small>${t("vectors", { n: number(space.vectors) })}</small>
        ${about?.bundled[space.model] && html`<small>${t("demonstration")}</small>`}</li>`,
    )}</ul>
    <h2><label for="language">${t("language")}</label></h2>
    <select id="language" value=${language} onChange=${(event) => choose(event.currentTarget.value)}>
      ${languages().map(([tag, name]) => html`<option value=${tag} lang=${tag}>${name}</option>`)}
    </select>
    <p class="faint">mlx_mm ${about?.version}</p>
  </section>`;
};
