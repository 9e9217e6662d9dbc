// Duplicates, side by side, and what is decided about them; nothing is deleted here.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { details, get, post } from "./api.js";
import { bytes, date, number, t } from "./language.js";
import { go } from "./query.js";
import { Name } from "./text.js";

const KINDS = ["identical", "same", "similar"];
const AT_ONCE = 20;

const formatOf = (name) => (name.includes(".") ? name.split(".").pop().toUpperCase() : "");

const Differs = ({ value, other, children }) => html`<dd class=${value === other ? "faint" : "differs"}>${children}</dd>`;

const Copy = ({ file, keeper, kept, choose, apart }) => {
  const [item, setItem] = useState(null);
  useEffect(() => void details(file.id).then(setItem, () => {}), [file.id]);
  const pixels = file.width && `${number(file.width)} × ${number(file.height)}`;
  return html`<li class="copy ${kept ? "kept" : ""}">
    <button class="shot" aria-label=${t("openItem")} onClick=${() => go({ item: file.id })}>
      ${item?.kind === "audio" ? html`<span class="note" aria-hidden="true">♪</span>` : html`<img src=${file.thumbnail} alt="" loading="lazy" />`}
    </button>
    <label class="keep"><input type="radio" name=${keeper.path} checked=${kept} onChange=${choose} /> ${t(kept ? "keeps" : "keepThis")}</label>
    <p class="name"><${Name} text=${file.name} /></p>
    <dl>
      ${pixels && html`<dt>${t("pixels")}</dt><${Differs} value=${pixels} other=${keeper.width && `${number(keeper.width)} × ${number(keeper.height)}`}>${pixels}<//>`}
      <dt>${t("size")}</dt><${Differs} value=${file.size} other=${keeper.size}>${bytes(file.size)}<//>
      <dt>${t("format")}</dt><${Differs} value=${formatOf(file.name)} other=${formatOf(keeper.name)}>${formatOf(file.name)}<//>
      ${item?.taken_at && html`<dt>${t("date")}</dt><dd class="faint">${date(item.taken_at)}</dd>`}
      <dt>${t("path")}</dt><dd class="faint path"><${Name} dir="ltr" text=${file.path} /></dd>
    </dl>
    ${apart && html`<button class="small" onClick=${apart}>${t("keepApart")}</button>`}
  </li>`;
};

const pathsBut = (group, kept) => group.files.filter((file) => file.path !== kept).map((file) => file.path);

/** A list of the copies, for whatever takes them away: one path in a line. */
const download = (lines) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines.map((line) => `${line}\n`), { type: "text/plain" }));
  link.download = "copies.txt";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

export const DuplicatesView = ({ version }) => {
  const [kind, setKind] = useState("same");
  const [groups, setGroups] = useState(null);
  const [kept, setKept] = useState({}); // of a group the path that was chosen in place of the suggested one
  const [shown, setShown] = useState(AT_ONCE);
  const [error, setError] = useState("");
  const load = (which) =>
    get(`/api/duplicates?kind=${which}`).then(
      (found) => (setGroups(found.groups), setError("")),
      (failure) => setError(failure.message),
    );
  useEffect(() => {
    setGroups(null);
    setShown(AT_ONCE);
    load(kind);
  }, [kind, version]);
  const keptOf = (group) => kept[group.files[0].path] ?? group.files[0].path;
  const apart = async (group, file) => {
    const keeper = group.files.find((one) => one.path === keptOf(group));
    try {
      await post("/api/duplicates/keep", { first: keeper.content, second: file.content });
      await load(kind);
    } catch (failure) {
      setError(failure.message);
    }
  };
  const all = (groups ?? []).flatMap((group) => pathsBut(group, keptOf(group)));
  return html`<section class="duplicates">
    <h1>${t("duplicates")}</h1>
    <div class="status">
      <div class="sort" role="group" aria-label=${t("kind")}>
        ${KINDS.map((one) => html`<button aria-pressed=${kind === one} onClick=${() => setKind(one)}>${t(one)}</button>`)}
      </div>
      <p role="status" class="faint">${groups ? t("groups", { n: number(groups.length), copies: number(all.length) }) : t("searching")}</p>
      <span class="grow"></span>
      ${all.length > 0 && html`<button onClick=${() => download(all)}>${t("saveList")}</button>`}
    </div>
    <p class="faint">${t(`${kind}Means`)} ${t("nothingDeleted")}</p>
    ${error && html`<p role="alert" class="wrong">${error}</p>`}
    ${groups?.length === 0 && html`<div class="empty"><p>${t("noDuplicates")}</p></div>`}
    ${(groups ?? []).slice(0, shown).map((group) => {
      const keeper = group.files.find((file) => file.path === keptOf(group));
      return html`<ul class="group" role="list" key=${group.files[0].path}>
        ${group.files.map(
          (file) => html`<${Copy}
            key=${file.path}
            file=${file}
            keeper=${keeper}
            kept=${file === keeper}
            choose=${() => setKept({ ...kept, [group.files[0].path]: file.path })}
            apart=${file.content !== keeper.content && (() => apart(group, file))}
          />`,
        )}
      </ul>`;
    })}
    ${groups?.length > shown && html`<button class="main" onClick=${() => setShown(shown + AT_ONCE)}>${t("more")}</button>`}
  </section>`;
};
