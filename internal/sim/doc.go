// Package sim makes machines to deploy: real firmware, real network cards, real disks, in QEMU,
// each with a BMC that speaks IPMI 2.0 or Redfish (package redfish) and really starts, stops and
// resets it, and inserts virtual media.
//
// A [Network] is a Linux network namespace of its own with one bridge; [Network.AddMachine] puts
// a [Machine] on it. The servers under test run in the same namespace, by [Network.Command] as
// another program or by [Network.Do] with a socket of this process. BMCs listen on 127.0.0.1
// inside the namespace unless told otherwise, one port each. [Up] builds a whole [Lab] from a list of
// machines and [LoadState] lets another process find it.
//
// Everything that is started is on record in one state directory, which one process owns at a
// time. [Network.Close] ends and removes all of it, the kernel kills the machines of a process
// that dies, and [CleanUp] removes what such a process left.
//
// The package needs root, the programs ip and qemu-system-x86_64 and, for UEFI, OVMF. It knows
// nothing of what the machines boot: that is served by whoever runs in the namespace.
//
// Start reading at [Network] and [Machine].
package sim
