// Package ingot is the vocabulary: nodes, ports, conductors, journal entries, error kinds and
// secrets, named as OpenStack Ironic names them. It does no I/O and decides nothing; the rules
// that connect these nouns live above (lifecycle, store, conductor).
//
// Read node.go first.
package ingot
