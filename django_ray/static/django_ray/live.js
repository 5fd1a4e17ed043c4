// Keeps the page of the queues up to date: pushed where the server can, asked for every few seconds where not.
"use strict";
(() => {
  const live = document.getElementById("dr-live");
  const connection = document.getElementById("dr-connection");

  const connected = connection.textContent;

  const show = (html) => {
    // In place, so that the focus, the selection and the scroll position stay.
    Idiomorph.morph(live, html, { morphStyle: "innerHTML", ignoreActiveValue: true });
    shownAt = performance.now();
  };

  const say = (text) => {
    if (connection.textContent !== text) connection.textContent = text;
  };

  // Ages go on by themselves between two pages.
  let shownAt = performance.now();
  const duration = (seconds) => {
    if (seconds < 60) return `${Math.floor(seconds)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
    return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  };
  setInterval(() => {
    const passed = (performance.now() - shownAt) / 1000;
    for (const age of live.querySelectorAll("[data-seconds]")) {
      age.textContent = duration(Number(age.dataset.seconds) + passed);
    }
  }, 1000);

  if (live.dataset.stream) {
    const source = new EventSource(live.dataset.stream);
    source.onmessage = (event) => {
      say(connected);
      show(JSON.parse(event.data));
    };
    source.onerror = () => say(connection.dataset.lost);
  } else {
    setInterval(async () => {
      if (document.hidden) return;
      try {
        const answer = await fetch(live.dataset.refresh, { credentials: "same-origin" });
        if (!answer.ok) throw new Error(answer.statusText);
        show(await answer.text());
        say(connected);
      } catch {
        say(connection.dataset.lost);
      }
    }, 5000);
  }
})();
