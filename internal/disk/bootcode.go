package disk

import (
	"encoding/hex"
	"slices"
	"strings"
)

// BootCode is what a BIOS runs from the first sector of a disk, in front of the signature of an
// MBR: it starts the boot loader in the first sector of the active partition, as boot code of
// MBRs always did. The loader is entered with the disk in DL and the partition's entry at DS:SI, by
// which SYSLINUX and others learn where they are. Sectors are read by number (INT 13h, AH=42h,
// Enhanced Disk Drive Specification 3.0), so the partition may begin anywhere. What goes wrong is
// told on the console, and the firmware goes on with its boot order (INT 18h).
func BootCode() []byte { return slices.Clone(bootCode) }

// bootCode was assembled by hand; `objdump -D -b binary -m i8086 --adjust-vma=0x600` agrees.
var bootCode = append(bytesOf(`
; The firmware loads 512 bytes to 0000:7C00, the disk's number is in DL. That place is
; the loader's, so the code moves to 0000:0600.
0600  FA                         cli
0601  31 C0                      xor  ax, ax
0603  8E D8                      mov  ds, ax
0605  8E C0                      mov  es, ax
0607  8E D0                      mov  ss, ax
0609  BC 00 7C                   mov  sp, 7C00
060C  FB                         sti
060D  FC                         cld
060E  BE 00 7C                   mov  si, 7C00
0611  BF 00 06                   mov  di, 0600
0614  B9 00 01                   mov  cx, 256
0617  F3 A5                      rep  movsw
0619  EA 1E 06 00 00             jmp  0000:061E

; Find the active entry of the four.
061E  BE BE 07                   mov  si, 07BE
0621  B1 04                      mov  cl, 4          CX is 0 after rep
0623  F6 04 80            entry: test byte [si], 80
0626  75 0A                      jnz  found
0628  83 C6 10                   add  si, 16
062B  E2 F6                      loop entry
062D  BE 79 06                   mov  si, 0679       No active partition
0630  EB 34                      jmp  print

; Read its first sector to 0000:7C00; the address packet is built on the stack.
0632  52                  found: push dx
0633  66 6A 00                   push dword 0        sector, high half
0636  66 FF 74 08                push dword [si+8]   sector, low half
063A  6A 00                      push 0              segment
063C  68 00 7C                   push 7C00           offset
063F  6A 01                      push 1              sectors
0641  6A 10                      push 16             size of the packet
0643  89 F5                      mov  bp, si
0645  89 E6                      mov  si, sp
0647  B4 42                      mov  ah, 42
0649  CD 13                      int  13
064B  BE 8F 06                   mov  si, 068F       Cannot read
064E  72 16                      jc   print
0650  BE B2 06                   mov  si, 06B2       no boot loader
0653  81 3E FE 7D 55 AA          cmp  word [7DFE], AA55
0659  75 0B                      jne  print
065B  83 C4 10                   add  sp, 16
065E  5A                         pop  dx
065F  89 EE                      mov  si, bp
0661  EA 00 7C 00 00             jmp  0000:7C00

; Print the text at SI and give up.
0666  AC                  print: lodsb
0667  84 C0                      test al, al
0669  74 09                      jz   next
066B  B4 0E                      mov  ah, 0E
066D  BB 07 00                   mov  bx, 7
0670  CD 10                      int  10
0672  EB F2                      jmp  print
0674  CD 18               next:  int  18             the next boot device
0676  F4                  halt:  hlt
0677  EB FD                      jmp  halt
`),
	"No active partition\r\n\x00"+ // 0679
		"Cannot read the active partition\r\n\x00"+ // 068F
		"The active partition has no boot loader\r\n\x00"...) // 06B2

// bytesOf reads a listing: on each line that is no comment an address, bytes and, after column
// 26, the instruction.
func bytesOf(listing string) []byte {
	var code []byte
	for line := range strings.Lines(listing) {
		if line == "\n" || line[0] == ';' {
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(line[4:26], " ", ""))
		if err != nil {
			panic(err) // a constant
		}
		code = append(code, b...)
	}
	return code
}
