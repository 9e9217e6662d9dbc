// The panel where a model is asked about what is selected, and answers; the tab keeps the conversation.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { Answer } from "./answer.js";
import { details } from "./api.js";
import { Boxed } from "./boxes.js";
import { answer } from "./chat.js";
import { t } from "./language.js";
import { store } from "./tab.js";
import { inOneLine, visible } from "./text.js";

const STORED = "mlx_mm.conversation";

const stored = () => {
  try {
    return JSON.parse(sessionStorage.getItem(STORED)) ?? [];
  } catch {
    return [];
  }
};

const Small = ({ id, remove }) => {
  const [item, setItem] = useState(null);
  useEffect(() => void details(id).then(setItem, () => {}), [id]);
  return html`<span class="attached" title=${inOneLine(item?.name)}>
    ${item?.thumbnail && html`<img src=${item.thumbnail} alt=${inOneLine(item.name)} />`}
    ${item?.kind === "audio" && html`<span class="note" aria-hidden="true">♪</span>`}
    ${remove && html`<button aria-label=${t("remove", { what: inOneLine(item?.name) })} onClick=${remove}>×</button>`}
  </span>`;
};

const Said = ({ message, shown, waiting }) => {
  if (message.role === "user") {
    return html`<li class="said user">
      ${message.items?.length > 0 && html`<div class="attachments">${message.items.map((id) => html`<${Small} key=${id} id=${id} />`)}</div>`}
      <p dir="auto">${visible(message.text)}</p>
    </li>`;
  }
  const boxed = message.boxes?.length > 0 && shown;
  return html`<li class="said">
    ${message.reasoning && html`<details class="reasoning"><summary>${t("reasoning")}</summary><p dir="auto">${visible(message.reasoning)}</p></details>`}
    ${waiting && !message.text && html`<p class="faint dots">${message.reading ? t("reading") : t("thinking")}</p>`}
    <div class="answer"><${Answer} text=${message.text} /></div>
    ${message.calls?.map((call) => html`<pre class="call"><b>${inOneLine(call.name)}</b> <code>${visible(call.arguments)}</code></pre>`)}
    ${boxed && html`<${Boxed} id=${shown} boxes=${message.boxes} />`}
    ${message.end === "length" && html`<small>${t("cutShort")}</small>`}
    ${message.stopped && html`<small>${t("stopped")}</small>`}
    ${message.error && html`<p role="alert" class="wrong">${inOneLine(message.error)}</p>`}
  </li>`;
};

/** The picture that boxes are of: the last one that was shown before. */
const shownBefore = (messages, n) => messages.slice(0, n).findLast((one) => one.items?.length)?.items.at(-1);

const Demonstration = ({ model, about }) => {
  const bundled = about?.bundled[model];
  return bundled ? html`<p class="card faint">${t("bundledChat", { model, advised: bundled.advised })}</p>` : null;
};

export const AskPanel = ({ open, close, models, about, items, setItems }) => {
  const [messages, setMessages] = useState(stored);
  const [text, setText] = useState("");
  const [model, setModel] = useState("");
  const [busy, setBusy] = useState(false);
  const stop = useRef(null);
  const field = useRef(null);
  const list = useRef(null);
  const able = models.filter((one) => one.capabilities.chat);
  const chosen = model || able[0]?.id || "";

  useEffect(() => {
    if (!busy) store(STORED, JSON.stringify(messages.slice(-40)));
  }, [messages, busy]);
  useEffect(() => {
    if (open) field.current?.focus();
  }, [open, items, able.length > 0]); // without a model it takes no focus
  useEffect(() => {
    const box = list.current;
    if (box && box.scrollHeight - box.scrollTop - box.clientHeight < 240) box.scrollTop = box.scrollHeight;
  }, [messages]);

  const send = async () => {
    const question = text.trim();
    if (!question || busy || !chosen) return;
    const before = [...messages.filter((one) => !one.error), { role: "user", text: question, items }];
    const show = (last) => setMessages([...before, last]);
    let last = { role: "assistant", text: "" };
    setText("");
    setItems([]);
    setBusy(true);
    show(last);
    stop.current = new AbortController();
    try {
      await answer(chosen, before, stop.current.signal, (now) => show((last = now)));
    } catch (error) {
      show({ ...last, reading: "", ...(error.name === "AbortError" ? { stopped: true } : { error: error.message }) });
    } finally {
      setBusy(false);
      stop.current = null;
      field.current?.focus();
    }
  };
  const key = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape") {
      event.preventDefault();
      if (busy) stop.current?.abort();
      else close();
    }
  };
  if (!open) return null;
  return html`<aside class="ask" id="ask" aria-label=${t("ask")}>
    <div class="head">
      <h2>${t("ask")}</h2>
      ${able.length > 1 &&
      html`<select aria-label=${t("model")} value=${chosen} onChange=${(event) => setModel(event.currentTarget.value)}>
        ${able.map((one) => html`<option value=${one.id}>${inOneLine(one.id)}</option>`)}
      </select>`}
      ${messages.length > 0 && html`<button class="small" disabled=${busy} onClick=${() => setMessages([])}>${t("anew")}</button>`}
      <button class="close" aria-label=${t("close")} onClick=${close}>×</button>
    </div>
    <div class="talk" role="log" aria-live="polite" aria-busy=${busy} tabindex="0" aria-label=${t("conversation")} ref=${list}>
      <${Demonstration} model=${chosen} about=${about} />
      ${!messages.length && html`<p class="faint">${t(able.length ? "askHow" : "noChat")}</p>`}
      <ol>${messages.map(
        (message, n) => html`<${Said} key=${n} message=${message} shown=${shownBefore(messages, n)} waiting=${busy && n === messages.length - 1} />`,
      )}</ol>
    </div>
    <div class="compose">
      ${items.length > 0 &&
      html`<div class="attachments">${items.map((id) => html`<${Small} key=${id} id=${id} remove=${() => setItems(items.filter((one) => one !== id))} />`)}</div>`}
      <textarea ref=${field} rows="2" dir="auto" aria-label=${t("question")} placeholder=${t("question")} value=${text}
        onInput=${(event) => setText(event.currentTarget.value)} onKeyDown=${key} disabled=${!able.length}></textarea>
      ${busy
        ? html`<button class="main stop" onClick=${() => stop.current?.abort()}>${t("stop")}</button>`
        : html`<button class="main" disabled=${!text.trim() || !chosen} onClick=${send}>${t("send")}</button>`}
    </div>
  </aside>`;
};
