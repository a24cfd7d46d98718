/** Single-key shortcuts. They can be disabled, for speech input and accidental typing. */

const STORED = "stemwire-shortcuts";

/**
 * Listen for keys.
 * @param {Object<string, () => void>} actions by key
 * @param {HTMLInputElement} box checkbox that enables them
 */
export function listenForKeys(actions, box) {
  box.checked = localStorage.getItem(STORED) !== "off";
  box.addEventListener("change", () => localStorage.setItem(STORED, box.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !box.checked) return;
    if (event.target.closest("select, dialog, input:not([type=range], [type=radio])")) return;
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    if (!event.repeat || "[]{}".includes(event.key)) action();
  });
}
