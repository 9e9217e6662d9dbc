// One item, as large as the window, with what is known of it; the neighbours by arrow keys.
import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/preact-htm.js";
import { details, original, post } from "./api.js";
import { bytes, date, isRightToLeft, number, t } from "./language.js";
import { go, nothing } from "./query.js";
import { about as aboutSound, Strip, useWave } from "./sound.js";
import { inOneLine, Name } from "./text.js";

const SMALL = 480; // pixels: such a picture is shown larger than it is

const Picture = ({ item }) => {
  const [spare, setSpare] = useState(false);
  return html`<img
      class="large ${Math.max(item.width, item.height) < SMALL ? "grown" : ""}"
      src=${spare ? item.thumbnail : original(item.id)}
      alt=${inOneLine(item.name)}
      width=${item.width}
      height=${item.height}
      onError=${() => setSpare(true)}
    />${spare && html`<p class="faint">${t("noPreview")}</p>`}`;
};

const Sound = ({ item, part }) => {
  const wave = useWave(item);
  const shown = { ...item, start: part?.start, stop: part?.stop };
  return html`<div class="listen">
    <${Strip} item=${shown} wave=${wave} />
    <p dir="ltr">${aboutSound(shown, wave)}</p>
    <audio controls preload="metadata" src="${original(item.id)}#t=${part?.start ?? 0}" aria-label=${inOneLine(item.name)} />
  </div>`;
};

const Video = ({ item, part }) =>
  html`<video class="large" controls preload="metadata" src="${original(item.id)}#t=${part?.start ?? 0}" poster=${part?.start ? undefined : item.thumbnail} aria-label=${inOneLine(item.name)} />`;

const SHOWN = { image: Picture, audio: Sound, video: Video };

const Copy = ({ text }) => {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button class="small" onClick=${copy}>${t(done ? "copied" : "copy")}</button>`;
};

const Tags = ({ item, changed }) => {
  const [text, setText] = useState("");
  const [error, setError] = useState("");
  const put = async (labels) => {
    try {
      const found = await post(`/api/items/${item.id}/tags`, { labels });
      details.forget(item.id);
      setError("");
      changed({ ...item, tags: found.tags });
    } catch (failure) {
      setError(failure.message);
    }
  };
  const add = (event) => {
    event.preventDefault();
    if (text.trim()) put([...item.tags, text.trim()]);
    setText("");
  };
  return html`<ul class="chips" role="list">
      ${item.tags.map(
        (tag) => html`<li class="chip" key=${tag}>
          <button class="link" onClick=${() => go({ ...nothing, tag })}><${Name} text=${tag} /></button>
          <button aria-label=${t("remove", { what: inOneLine(tag) })} onClick=${() => put(item.tags.filter((one) => one !== tag))}>×</button>
        </li>`,
      )}
    </ul>
    <form class="pill" onSubmit=${add}>
      <input type="text" aria-label=${t("addTag")} placeholder=${t("addTag")} value=${text} dir="auto" onInput=${(event) => setText(event.currentTarget.value)} />
    </form>
    ${error && html`<p role="alert" class="wrong">${error}</p>`}`;
};

const Facts = ({ item, about, changed }) => {
  const [north, east] = item.place ?? [];
  const rows = [
    ["date", item.taken_at && date(item.taken_at)],
    ["size", [item.width && `${number(item.width)} × ${number(item.height)}`, bytes(item.size)].filter(Boolean).join(" · ")],
    ["camera", item.camera && html`<button class="link" onClick=${() => go({ ...nothing, camera: item.camera })}><${Name} text=${item.camera} /></button>`],
    ["place", item.place && html`<button class="link" onClick=${() => go({ ...nothing, near: `${north},${east},5000` })}>
      <bdi>${number(north, { maximumFractionDigits: 4 })}°, ${number(east, { maximumFractionDigits: 4 })}°</bdi></button>`],
  ];
  return html`<dl>
    ${rows.map(([name, value]) => value && html`<div key=${name}><dt>${t(name)}</dt><dd>${value}</dd></div>`)}
    ${item.paths.map(
      (path, n) => html`<div key=${path}><dt>${t(n ? "copyOf" : "path")}</dt><dd class="path"><${Name} dir="ltr" text=${path} /> <${Copy} text=${path} />
        ${n === 0 && about?.reveals && html`<button class="small" onClick=${() => post(`/api/items/${item.id}/reveal`, {}).catch(() => {})}>${t("reveal")}</button>`}</dd></div>`,
    )}
    <div><dt>${t("tags")}</dt><dd><${Tags} item=${item} changed=${changed} /></dd></div>
  </dl>`;
};

export const Viewer = ({ id, items, active: [active, setActive], about, close, like, ask }) => {
  const dialog = useRef(null);
  const [item, setItem] = useState(null);
  const [error, setError] = useState("");
  const here = items.idOf(active) === id ? active : -1;
  const part = here >= 0 ? items.at(here) : null;

  useLayoutEffect(() => {
    dialog.current.showModal();
    return () => dialog.current?.close();
  }, []);

  useEffect(() => {
    let wanted = true;
    setError("");
    details(id).then(
      (found) => wanted && setItem(found),
      (failure) => wanted && (setItem(null), setError(failure.message)),
    );
    return () => (wanted = false);
  }, [id]);

  // The address alone says what is open; the grid follows, so that its focus is there afterwards.
  useEffect(() => {
    if (here >= 0) return;
    for (let n = 0; n < items.length; n++) if (items.idOf(n) === id) return void setActive(n);
  }, [id, items]);

  const move = (step) => {
    const next = here + step;
    if (here < 0 || next < 0 || next >= items.length) return;
    setActive(next);
    go({ item: items.idOf(next) }, { replace: true });
  };
  const key = (event) => {
    if (event.target.closest("input, video, audio") || event.ctrlKey || event.metaKey || event.altKey) return;
    const onward = isRightToLeft() ? "ArrowLeft" : "ArrowRight";
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") move(event.key === onward ? 1 : -1);
    else if (event.key === "s") like(id);
    else if (event.key === "c") ask(id);
    else return;
    event.preventDefault();
  };
  const cancel = (event) => {
    event.preventDefault();
    close();
  };
  const Shown = item && SHOWN[item.kind];
  return html`<dialog ref=${dialog} class="viewer" aria-label=${item ? inOneLine(item.name) : t("loading")} onCancel=${cancel} onKeyDown=${key}
    onClick=${(event) => event.target === event.currentTarget && close()}>
    <div class="stage">
      ${item && html`<${Shown} key=${item.id} item=${item} part=${part} />`}
      ${error && html`<p role="alert">${error}</p>`}
      <button class="step back" aria-label=${t("before")} disabled=${here <= 0} onClick=${() => move(-1)}><span>‹</span></button>
      <button class="step on" aria-label=${t("next")} disabled=${here < 0 || here >= items.length - 1} onClick=${() => move(1)}><span>›</span></button>
    </div>
    <aside>
      <div class="head">
        <h2>${item && html`<${Name} text=${item.name} />`}</h2>
        <button class="close" autofocus aria-label=${t("close")} onClick=${close}>×</button>
      </div>
      <div class="actions">
        <button onClick=${() => like(id)}>${t("moreLikeThis")}</button>
        ${item?.kind !== "audio" && html`<button onClick=${() => ask(id)}>${t("askAbout")}</button>`}
      </div>
      ${item && html`<${Facts} item=${item} about=${about} changed=${setItem} />`}
    </aside>
  </dialog>`;
};
