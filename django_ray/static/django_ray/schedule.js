// While somebody edits when a schedule is due: the next five times that this would mean, as the server says them.
"use strict";
(() => {
  const preview = document.getElementById("dr-preview");
  const inputs = ["cron", "every", "time_zone"].map((name) => document.getElementById(`id_${name}`));
  let timer = 0;
  let latest = 0;

  const ask = async () => {
    const number = ++latest;
    const query = new URLSearchParams(inputs.map((input) => [input.name, input.value]));
    try {
      const answer = await fetch(`${preview.dataset.preview}?${query}`, { credentials: "same-origin" });
      const text = await answer.text();
      // An answer that comes late is of what stood there before.
      if (answer.ok && number === latest) preview.innerHTML = text;
    } catch {
      // The form says it when it is saved.
    }
  };

  for (const input of inputs) {
    input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(ask, 250);
    });
  }
})();
