// Package lab puts whole installations together on one host: test machines (sim), a deploy
// ramdisk and a bootable image made on the spot (ramdisk, guest), and a real `ingot serve` in
// their network namespace. `ingot demo`, `ingot lab`, the end-to-end tests and the benchmarks
// are built on it. It knows the server only as a program and by its API.
//
// Read lab.go first, then demo.go.
package lab
