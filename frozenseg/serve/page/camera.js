/** A picture from the camera. */

import { byId } from "./dom.js";

/**
 * Prepare the buttons and the dialog of the camera; `take(file)` gets the picture.
 *
 * Browsers give the camera only to pages of this machine or of https. Elsewhere a telephone still
 * opens its own camera for a file input.
 */
export function watchCamera(take, refuse) {
  const [dialog, video] = [byId("camera"), byId("camera-view")];
  let stream = null;
  const open = async () => {
    if (!navigator.mediaDevices) return byId("camera-file").click();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      const denied = error.name === "NotAllowedError";
      return refuse(denied ? "The camera was not allowed." : "No camera can be used here.");
    }
    video.srcObject = stream;
    dialog.showModal();
  };
  for (const button of document.querySelectorAll("[data-shoot]")) button.addEventListener("click", open);
  byId("camera-file").addEventListener("change", ({ target }) => {
    if (target.files.length) take(target.files[0]);
    target.value = "";
  });
  byId("camera-shoot").addEventListener("click", async () => {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await canvas.convertToBlob({ type: "image/png" });
    dialog.close();
    take(new File([blob], "camera.png", { type: "image/png" }));
  });
  byId("camera-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    // The light of the camera shall go out as soon as it is not needed.
    stream?.getTracks().forEach((track) => track.stop());
    video.srcObject = stream = null;
  });
}
