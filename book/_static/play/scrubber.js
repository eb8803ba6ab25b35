// The curves and films of a training: the package's scrubber, which `dcganlib report` puts into its pages too.
play.register("scrubber", async (box, options, still) => {
  "use strict";
  await play.load("scrubber.js");
  scrubber.make(box, options, still);
});
