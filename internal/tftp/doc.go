// Package tftp serves files to boot firmware over TFTP, read only.
//
// It implements RFC 1350 (the protocol), 2347 (option negotiation), 2348 (block size),
// 2349 (timeout, transfer size) and 7440 (window size). Block numbers roll over to zero,
// so the size of a file is not limited. Loss, duplication and reordering of packets are
// normal and are not reported as faults.
//
// The package does not know what a file is: a [Handler] turns a cleaned path into bytes.
// It has no write side, and it does not drop privileges or open port 69 itself; the caller
// passes a socket to [Server.Serve].
//
// All transfers share their sockets and are told apart by the client's address and port; packets
// go in and out in batches (recvmmsg, sendmmsg, UDP_SEGMENT), so the package is for Linux. The
// price is that the port of transfers can be learned by asking for a file.
//
// Read [Server] first, then transfer.go, the state machine of one transfer, then service.go,
// which feeds it, then socket.go.
// [Get] is the client side, for tests and simulated machines.
package tftp
