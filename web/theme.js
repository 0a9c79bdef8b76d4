// The colour theme: light, dark, or the system's. A classic script in the head, so that the theme is set before the first
// paint; it therefore imports nothing.
{
  const root = document.documentElement;
  const KEY = "sparsefire-theme";
  const NAMES = { system: "system setting", light: "light", dark: "dark" };
  const SIGNS = { system: "◐", light: "☀", dark: "☾" };
  const NEXT = { system: "light", light: "dark", dark: "system" };
  const systemDark = matchMedia("(prefers-color-scheme: dark)");

  const read = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is disabled
    }
  };
  const write = (value) => {
    try {
      localStorage.setItem(KEY, value);
    } catch {
      // The choice lasts for this visit only.
    }
  };

  let choice = read() in NAMES ? read() : "system";

  /** Sets the attribute that base.css selects its palette by. */
  const apply = () => {
    root.dataset.theme = choice === "system" ? (systemDark.matches ? "dark" : "light") : choice;
    document.dispatchEvent(new Event("theme"));
  };

  const wireButton = () => {
    const button = document.getElementById("theme");
    const show = () => {
      button.setAttribute("aria-label", `Colour theme: ${NAMES[choice]}`);
      document.getElementById("theme-sign").textContent = SIGNS[choice];
    };
    button.addEventListener("click", () => {
      choice = NEXT[choice];
      write(choice);
      apply();
      show();
    });
    show();
  };

  systemDark.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", wireButton);
  apply();
}
