// Who was sent to an object's page comes to it when signed in: a fragment outlives a redirect.
document.querySelector("form").action = `/signin${location.hash}`;
