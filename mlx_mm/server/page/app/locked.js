// Where the session is not known: the server was started anew, or the page was opened without its link.
import { html, useState } from "../vendor/preact-htm.js";
import { post } from "./api.js";
import { t } from "./language.js";

export const Locked = () => {
  const [key, setKey] = useState("");
  const [error, setError] = useState("");
  const enter = async (event) => {
    event.preventDefault();
    // A whole link may be pasted, too.
    const found = key.trim().replace(/^.*[?&]token=/, "");
    try {
      await post("/open", { key: found });
      location.reload();
    } catch (failure) {
      setError(failure.message);
    }
  };
  return html`<main class="locked">
    <h1>${t("lockedTitle")}</h1>
    <p>${t("lockedHow")}</p>
    <pre><code>mlx_mm serve --open</code></pre>
    <form onSubmit=${enter}>
      <label>${t("lockedKey")}<input type="password" autocomplete="off" value=${key} onInput=${(event) => setKey(event.currentTarget.value)} /></label>
      <button class="main">${t("unlock")}</button>
    </form>
    ${error && html`<p role="alert" class="wrong">${error}</p>`}
  </main>`;
};
