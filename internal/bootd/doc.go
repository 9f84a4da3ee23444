// Package bootd is the sockets that machines talk to: DHCP or ProxyDHCP, TFTP, and HTTP. All
// of them answer one question: what does this machine boot? Each answer is computed at that
// moment from the rows of the machine's node; nothing is written per machine, so any conductor
// can answer any machine.
//
// The package leaves the iPXE script and the calls of the ramdisk to the handler it is given
// (netboot writes the text), the fetching of kernels to bootfile, and the protocols to dhcp
// and tftp. Whatever was answered goes to the journal of the node.
//
// Read decision.go first: the table of which firmware gets which boot file and why. dhcp.go is
// the address side; server.go holds the sockets together.
package bootd
