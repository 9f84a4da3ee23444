package main

import (
	"slices"
	"testing"
)

func TestFloorsOfTheProjectParse(t *testing.T) {
	floors, err := parse(floorsText)
	if err != nil {
		t.Fatal(err)
	}
	if floors["internal/ingot"] >= floors["internal/store"] {
		t.Error("the vocabulary has to lie below the store")
	}
}

func TestCheckNamesWhatIsBroken(t *testing.T) {
	floors := map[string]int{"a": 2, "b": 1, "b/c": 1}
	pkgs := []pkg{
		{ImportPath: "ingot/a", Doc: "d", GoFiles: []string{"a.go"}, Imports: []string{"ingot/b", "fmt"}},
		{ImportPath: "ingot/b", GoFiles: []string{"b.go"}, Imports: []string{"ingot/a", "ingot/b/c"}},
		{ImportPath: "ingot/x", Doc: "d"},
	}
	got := check(floors, pkgs)
	want := []string{
		"b has no package comment",
		"b (floor 1) imports a (floor 2)",
		"x has no floor; add a line to tools/floors/floors.txt",
	}
	if !slices.Equal(got, want) {
		t.Errorf("complaints %q, want %q", got, want)
	}
}
