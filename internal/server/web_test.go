package server_test

import "net/http"

// webClient is not http.DefaultClient: the end of any httptest.Server closes the idle connections of
// that, also one that a test beside is about to use.
var webClient = &http.Client{Transport: &http.Transport{}}
