// Hello is the yardstick of the benchmarks: the least that a Go program which answers HTTP can
// cost. It answers every request with the same text, of as many bytes as its second argument
// says, on the address that its first argument says.
package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: hello ADDRESS BYTES")
		os.Exit(2)
	}
	size, err := strconv.Atoi(os.Args[2])
	if err != nil || size < 0 {
		fmt.Fprintln(os.Stderr, "hello: the second argument is a number of bytes")
		os.Exit(2)
	}
	text := bytes.Repeat([]byte("#"), size)
	err = http.ListenAndServe(os.Args[1], http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Write(text)
		}))
	fmt.Fprintln(os.Stderr, "hello:", err)
	os.Exit(1)
}
