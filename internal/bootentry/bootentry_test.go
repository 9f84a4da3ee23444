package bootentry_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"ingot/internal/bootentry"
)

const (
	bootUUID = "6f0d2a1c-58b3-4c5e-9c66-0c2b8f3f9a10"
	rootUUID = "0ee5b1b7-7400-4000-8000-000000000002"
)

// volume makes a file system of texts; one with a short UUID is FAT.
func volume(name, uuid string, files map[string]string) bootentry.Volume {
	m := fstest.MapFS{}
	efi := len(uuid) == len("1234-ABCD")
	for path, text := range files {
		m[path] = &fstest.MapFile{Data: []byte(text)}
	}
	return bootentry.Volume{Name: name, UUID: uuid, EFI: efi, Files: m}
}

// told is an entry as a text: volume, kernel, volume, initrd... and the command line.
func told(volumes []bootentry.Volume, e bootentry.Entry) string {
	var b strings.Builder
	for _, f := range append([]bootentry.File{e.Kernel}, e.Initrds...) {
		b.WriteString(volumes[f.Volume].Name + ":" + f.Path + " ")
	}
	return b.String() + "| " + e.Args
}

// env is an environment block of GRUB.
func env(lines ...string) string {
	text := "# GRUB Environment Block\n" + strings.Join(lines, "\n") + "\n"
	return text + strings.Repeat("#", 1024-len(text))
}

// probe answers grub-mkconfig in the place of grub-probe: about a disk that this host does not have.
const probe = `#!/bin/sh
for a; do case $a in --target=*) t=${a#*=} ;; esac; done
case $t in
device) echo /dev/vda1 ;; fs) echo ext2 ;; partmap) echo gpt ;; abstraction) ;;
fs_uuid) echo ` + bootUUID + ` ;;
compatibility_hint) echo hd0,gpt1 ;; hints_string) echo "--hint-bios=hd0,gpt1 --hint-efi=hd0,gpt1" ;;
*) exit 1 ;;
esac
`

// generated is the grub.cfg that Debian's GRUB writes for a machine with two kernels on a partition of their own.
func generated(t *testing.T, settings ...string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "grub-probe")
	if err := os.WriteFile(path, []byte(probe), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "-rm", "sh", "-ec", `mount -t tmpfs tmpfs /boot
for v in 6.1.0-9-amd64 6.1.0-13-amd64; do echo kernel >/boot/vmlinuz-$v; echo initrd >/boot/initrd.img-$v; done
for part in 00_header 10_linux 30_uefi-firmware 41_custom; do sh /etc/grub.d/$part; done`)
	cmd.Env = append(os.Environ(), append([]string{"LC_ALL=C", "grub_probe=" + path, "pkgdatadir=/usr/share/grub",
		"GRUB_DEVICE=/dev/vda2", "GRUB_DEVICE_UUID=" + rootUUID, "GRUB_DEVICE_BOOT=/dev/vda1",
		"GRUB_DEVICE_BOOT_UUID=" + bootUUID, "GRUB_FS=ext2", "GRUB_TERMINAL_OUTPUT=gfxterm", "GRUB_GFXMODE=auto",
		"GRUB_DISTRIBUTOR=Debian", "GRUB_CMDLINE_LINUX=console=ttyS0", "GRUB_TIMEOUT=5"}, settings...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the scripts of grub-common: %v\n%s", err, errs.String())
	}
	return string(out)
}

func TestWhatDebiansGRUBWritesIsUnderstood(t *testing.T) {
	t.Parallel()
	const kernel13 = "vda1:vmlinuz-6.1.0-13-amd64 vda1:initrd.img-6.1.0-13-amd64 | " +
		"BOOT_IMAGE=/vmlinuz-6.1.0-13-amd64 root=/dev/vda2 ro console=ttyS0"
	text := generated(t, "GRUB_DEFAULT=saved")
	for name, c := range map[string]struct{ grubenv, want string }{
		"none that is kept": {"", kernel13},
		"the first":         {env("saved_entry=0"), kernel13},
		"an empty one":      {env(), kernel13},
		"a nested one": {env("saved_entry=1>2"), "vda1:vmlinuz-6.1.0-9-amd64 vda1:initrd.img-6.1.0-9-amd64 | " +
			"BOOT_IMAGE=/vmlinuz-6.1.0-9-amd64 root=/dev/vda2 ro console=ttyS0"},
		"by its id": {env("saved_entry=gnulinux-simple-" + bootUUID), kernel13},
		"a submenu": {env("saved_entry=1"), "is a submenu"},
		"once":      {env("saved_entry=0", "next_entry=1>2"), "for the next start alone"},
		"gone":      {env("saved_entry=other"), `"other" is not in the menu`},
		"broken":    {"saved_entry=0", "is no environment block"},
	} {
		files := map[string]string{"grub/grub.cfg": text}
		for _, v := range []string{"9", "13"} {
			files["vmlinuz-6.1.0-"+v+"-amd64"], files["initrd.img-6.1.0-"+v+"-amd64"] = "kernel", "initrd"
		}
		if c.grubenv != "" {
			files["grub/grubenv"] = c.grubenv
		}
		volumes := []bootentry.Volume{
			volume("vda15", "1234-ABCD", map[string]string{"EFI/debian/grub.cfg": "search.fs_uuid " + bootUUID +
				" root hd0,gpt1\nset prefix=($root)'/grub'\nconfigfile $prefix/grub.cfg\n"}),
			volume("vda1", bootUUID, files), volume("vda2", rootUUID, nil)}
		for _, firmware := range []bootentry.Firmware{bootentry.BIOS, bootentry.UEFI} {
			e, err := bootentry.Find(volumes, nil, firmware)
			if err == nil && told(volumes, e) != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: %s, %v", name, firmware, told(volumes, e), err)
			}
		}
	}
}

// ubuntu has what Ubuntu's cloud images have more than Debian's: functions with arguments, a start without an
// initramfs, a value that is a word or none.
const ubuntu = `
if [ -s $prefix/grubenv ]; then
	load_env
fi
if [ "${initrdfail}" = 2 ]; then set initrdfail=; elif [ "${initrdfail}" = 1 ]; then
	set next_entry="${prev_entry}"
fi
set default="0"
menuentry_id_option="--id"
function recordfail { set recordfail=1; if [ -n "${have_grubenv}" ]; then save_env recordfail; fi; }
function gfxmode {
	set gfxpayload="${1}"
	if [ "${1}" = "keep" ]; then set vt_handoff=vt.handoff=7
	else set vt_handoff=
	fi
}
if [ "${recordfail}" != 1 ]; then
	if [ -e ${prefix}/gfxblacklist.txt ]; then
		if [ ${grub_platform} != pc ]; then set linux_gfx_mode=keep
		elif hwmatch ${prefix}/gfxblacklist.txt 3; then
			if [ ${match} = 0 ]; then set linux_gfx_mode=keep; fi
		else set linux_gfx_mode=text; fi
	else set linux_gfx_mode=text; fi
fi
export linux_gfx_mode
menuentry 'Ubuntu' --class ubuntu $menuentry_id_option 'gnulinux-simple' {
	recordfail
	gfxmode $linux_gfx_mode
	search --no-floppy --fs-uuid --set=root 0ee5b1b7-7400-4000-8000-000000000002 # as in LABEL=cloudimg-rootfs
	if [ "${initrdfail}" = 1 ]; then
		linux /boot/vmlinuz root=PARTUUID=26f2 ro console=ttyS0
		initrd /boot/initrd.img
	else
		linux /boot/vmlinuz root=PARTUUID=26f2 ro $vt_handoff "a b" \
			console=ttyS0 panic=-1
	fi
}
menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' { fwsetup }
`

// fedora is the form of grub.cfg where entries are files.
const fedora = `
set pager=1
if [ -f ${config_directory}/grubenv ]; then
	load_env -f ${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then
	load_env
fi
if [ "${next_entry}" ] ; then
	set default="${next_entry}"
else
	set default="${saved_entry}"
fi
if [ -f ${prefix}/user.cfg ]; then source ${prefix}/user.cfg; fi
search --no-floppy --fs-uuid --set=root 6f0d2a1c-58b3-4c5e-9c66-0c2b8f3f9a10
search --no-floppy --fs-uuid --set=boot 6f0d2a1c-58b3-4c5e-9c66-0c2b8f3f9a10
if [ -z "${kernelopts}" ]; then set kernelopts="root=UUID=x ro"; fi
insmod blscfg
blscfg
if [ "${boot_success}" = "1" -o "${boot_indeterminate}" = "1" ]; then set last_boot_ok=1; fi
set boot_success=0
save_env boot_success boot_indeterminate
`

// fedoraEFI is what follows on a machine with UEFI: boot is the EFI system partition, and there are other entries.
const fedoraEFI = `
set pager=1
if [ -f ${config_directory}/grubenv ]; then
  load_env -f ${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
fi
if [ x"${feature_menuentry_id}" = xy ]; then menuentry_id_option="--id"; else menuentry_id_option=""; fi
export menuentry_id_option
terminal_output console
if [ x$feature_timeout_style = xy ] ; then
  set timeout_style=menu
  set timeout=1
fi
if [ -f ${prefix}/user.cfg ]; then
  source ${prefix}/user.cfg
fi
insmod part_gpt
insmod ext2
search --no-floppy --fs-uuid --set=root 6f0d2a1c-58b3-4c5e-9c66-0c2b8f3f9a10
insmod part_gpt
insmod fat
search --no-floppy --fs-uuid --set=boot ABCD-0123
if [ -z "${kernelopts}" ]; then
  set kernelopts="root=/dev/sda3 ro "
fi
insmod blscfg
blscfg
if [ "$grub_platform" = "efi" ]; then
	menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
		fwsetup
	}
fi
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
`

const fedoraStub = `search --no-floppy --root-dev-only --fs-uuid --set=dev 6f0d2a1c-58b3-4c5e-9c66-0c2b8f3f9a10
set prefix=($dev)/grub2
export $prefix
configfile $prefix/grub.cfg
`

func specFile(version string) string {
	return "title Rocky Linux (" + version + ")\nversion " + version + "\nlinux /vmlinuz-" + version +
		"\ninitrd /initramfs-" + version + ".img $tuned_initrd\noptions root=UUID=y ro $tuned_params quiet\n" +
		"grub_users $grub_users\ngrub_arg --unrestricted\ngrub_class rocky\n"
}

// disks are those of which something is booted, with what that is; or the error, which has no |.
var disks = map[string]struct {
	firmware bootentry.Firmware
	volumes  []bootentry.Volume
	want     string
}{
	"Ubuntu": {bootentry.BIOS, []bootentry.Volume{volume("sda1", rootUUID, map[string]string{
		"boot/grub/grub.cfg": ubuntu, "boot/vmlinuz": "k", "boot/initrd.img": "i", "boot/grub/gfxblacklist.txt": "x"})},
		`sda1:boot/vmlinuz | BOOT_IMAGE=/boot/vmlinuz root=PARTUUID=26f2 ro "a b" console=ttyS0 panic=-1`},
	"Ubuntu, UEFI, an environment": {bootentry.UEFI, []bootentry.Volume{
		volume("sda15", "ABCD-0123", map[string]string{"EFI/ubuntu/grub.cfg": "search.fs_uuid " + rootUUID +
			" root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg"}),
		volume("sda1", rootUUID, map[string]string{"boot/grub/grub.cfg": ubuntu, "boot/vmlinuz": "k", "boot/initrd.img": "i",
			"boot/grub/gfxblacklist.txt": "x", "boot/grub/grubenv": env("initrdfail=1")})},
		"sda1:boot/vmlinuz sda1:boot/initrd.img | BOOT_IMAGE=/boot/vmlinuz root=PARTUUID=26f2 ro console=ttyS0"},
	"Rocky, UEFI": {bootentry.UEFI, []bootentry.Volume{
		volume("sda1", "ABCD-0123", map[string]string{"EFI/rocky/grub.cfg": fedoraStub}),
		volume("sda2", bootUUID, map[string]string{"grub2/grub.cfg": fedora, "vmlinuz-5.14": "k", "initramfs-5.14.img": "i",
			"loader/entries/ffff-0-rescue.conf": specFile("0-rescue"), "loader/entries/ffff-5.14.conf": specFile("5.14"),
			"grub2/grubenv": env("saved_entry=ffff-5.14", "menu_auto_hide=1")})},
		"sda2:vmlinuz-5.14 sda2:initramfs-5.14.img | BOOT_IMAGE=/vmlinuz-5.14 root=UUID=y ro quiet"},
	"Rocky, BIOS, one entry": {bootentry.BIOS, []bootentry.Volume{
		volume("sda2", bootUUID, map[string]string{"grub2/grub.cfg": fedora, "vmlinuz-5.14": "k", "initramfs-5.14.img": "i",
			"loader/entries/ffff-5.14.conf": specFile("5.14")})},
		"sda2:vmlinuz-5.14 sda2:initramfs-5.14.img | BOOT_IMAGE=/vmlinuz-5.14 root=UUID=y ro quiet"},
	"Rocky, two entries, none named": {bootentry.BIOS, []bootentry.Volume{
		volume("sda2", bootUUID, map[string]string{"grub2/grub.cfg": fedora, "loader/entries/a.conf": specFile("5.14"),
			"loader/entries/b.conf": specFile("5.15")})}, "whose order is not understood"},
	"the image of the tests, BIOS": {bootentry.BIOS, []bootentry.Volume{testImage}, testImageBoots},
	"the image of the tests, UEFI": {bootentry.UEFI, []bootentry.Volume{testImage}, testImageBoots},
	"extlinux": {bootentry.BIOS, []bootentry.Volume{volume("vda1", "", map[string]string{
		"boot/extlinux/extlinux.conf": "UI menu.c32\nDEFAULT old\nTIMEOUT 10\nLABEL old\n MENU LABEL Old\n KERNEL /boot/old\n" +
			"LABEL chain\n COM32 chain.c32\nLABEL new\n MENU LABEL New\n LINUX ../vmlinuz\n APPEND initrd=../initrd,/x root=y\n",
		"boot/old": "k"})}, "vda1:boot/old | BOOT_IMAGE=/boot/old"},
	"extlinux, the menu's default": {bootentry.BIOS, []bootentry.Volume{volume("vda1", "", map[string]string{
		"boot/extlinux/extlinux.conf": "UI menu.c32\nAPPEND all\nTEXT HELP\nKERNEL x\nENDTEXT\nLABEL new\n MENU DEFAULT\n LINUX ../vmlinuz\n" +
			" APPEND initrd=../initrd,/x root=y\n", "boot/vmlinuz": "k", "boot/initrd": "i", "x": "i"})},
		"vda1:boot/vmlinuz vda1:boot/initrd vda1:x | BOOT_IMAGE=../vmlinuz root=y"},
	"systemd-boot": {bootentry.UEFI, []bootentry.Volume{volume("sda1", "1234-ABCD", map[string]string{
		"loader/loader.conf": "default debian-*\n", "EFI/debian/grub.cfg": "linux /k\nboot", "k": "k"})},
		"sda1:/loader/loader.conf: it is of systemd-boot, which is not understood"},
	"systemd-boot, as installed": {bootentry.UEFI, []bootentry.Volume{volume("sda1", "1234-ABCD",
		map[string]string{"EFI/systemd/systemd-bootx64.efi": "MZ"})}, "sda1:/EFI/systemd: it is of systemd-boot"},
	"a unified kernel": {bootentry.UEFI, []bootentry.Volume{volume("sda1", "1234-ABCD", map[string]string{
		"EFI/Linux/debian.efi": "MZ"})}, "sda1:/EFI/Linux/debian.efi: it is of a kernel with its initramfs in it"},
	"Fedora, UEFI, as grub2-mkconfig writes it": {bootentry.UEFI, []bootentry.Volume{
		volume("sda1", "ABCD-0123", map[string]string{"EFI/fedora/grub.cfg": fedoraStub}),
		volume("sda2", bootUUID, map[string]string{"grub2/grub.cfg": fedoraEFI, "vmlinuz-5.14": "k", "initramfs-5.14.img": "i",
			"loader/entries/4f0-0-rescue.conf": specFile("0-rescue"), "loader/entries/4f0-5.14.conf": specFile("5.14"),
			"grub2/grubenv": env("saved_entry=4f0-5.14")})},
		"sda2:vmlinuz-5.14 sda2:initramfs-5.14.img | BOOT_IMAGE=/vmlinuz-5.14 root=UUID=y ro quiet"},
	"Fedora, UEFI, the first of several": {bootentry.UEFI, []bootentry.Volume{
		volume("sda1", "ABCD-0123", map[string]string{"EFI/fedora/grub.cfg": fedoraStub}),
		volume("sda2", bootUUID, map[string]string{"grub2/grub.cfg": fedoraEFI,
			"loader/entries/a.conf": specFile("5.14"), "loader/entries/b.conf": specFile("5.15")})},
		"the default is entry 0 of several in /loader/entries"},
	"Fedora, BIOS, with that": {bootentry.BIOS, []bootentry.Volume{volume("sda1", "ABCD-0123", nil),
		volume("sda2", bootUUID, map[string]string{"grub2/grub.cfg": fedoraEFI})}, `boot ("volume0") is not root ("volume1")`},
	"entries below /boot": grubFiles("blscfg", "sda1:k | BOOT_IMAGE=/k a", map[string]string{
		"boot/loader/entries/a.conf": "linux /k\noptions a\n"}),
	"no entries":              grubFiles("blscfg", "there is no /loader/entries or /boot/loader/entries", nil),
	"blscfg with a place":     grubCase("blscfg (hd0)/x", "blscfg with arguments"),
	"two lines of options":    grubFiles("blscfg", "2 lines of options", map[string]string{"loader/entries/a.conf": "linux /k\noptions a\noptions b\n"}),
	"an entry, a directory":   grubFiles("blscfg", "is no regular file", map[string]string{"loader/entries/a.conf/x": ""}),
	"a default like a number": grubCase("set default=1x; menuentry 1x { linux /k }", `"1x" is a number for some versions`),
	"an octal default":        grubCase("set default=00; menuentry x { linux /k }", `"00" is a number for some versions`),
	"a signed default":        grubCase("set default=-0; menuentry x { linux /k }", `"-0" is a number for some versions`),
	"many !":                  grubCase("if [ "+strings.Repeat("! ", 2000)+"x ]; then menuentry x { linux /k }; fi", "sda1:k | BOOT_IMAGE=/k"),
	"too many !":              grubCase("function f { [ $* $* $* x ]; }\nf "+strings.Repeat("! ", 2000), "a command of more than 4096 words"),
	"a ! of nothing":          grubCase("if [ ! ]; then x; fi", "it ends too early"),
	"texts that grow": grubCase("function a { set x='"+strings.Repeat("x", 1<<16)+"'; }\n"+strings.Repeat("a\n", 100),
		"become more than 4 MiB"),
	"another configuration of syslinux": {bootentry.BIOS, []bootentry.Volume{volume("vda1", "", map[string]string{"k": "k",
		"syslinux.cfg": "DEFAULT a\nLABEL a\nKERNEL /k\nLABEL b\nKERNEL /k\nINCLUDE more.cfg\n"})}, `line 6: "include" is not understood`},
	"an end of the time": {bootentry.BIOS, []bootentry.Volume{volume("vda1", "", map[string]string{"k": "k",
		"syslinux.cfg": "DEFAULT a\nLABEL a\nKERNEL /k\nONTIMEOUT b\nLABEL b\nKERNEL /x\n"})}, `line 4: "ontimeout" is not understood`},
	"a loader's directory that is not FAT": {bootentry.UEFI, []bootentry.Volume{volume("vda1", rootUUID, map[string]string{"k": "k",
		"EFI/debian/grub.cfg": "linux /k\nboot"})}, "no configuration of GRUB or SYSLINUX"},
	"nothing":              {bootentry.BIOS, nil, "no file system that can be read"},
	"no loader":            {bootentry.BIOS, []bootentry.Volume{volume("sda1", "", nil)}, "SYSLINUX on sda1"},
	"an encrypted root":    grubCase("search --fs-uuid --set=root 99\nlinux /k", "0 of the file systems that can be read are \"99\""),
	"a name of a disk":     grubCase("set root='hd0,gpt1'\nlinux /k", `is on "hd0,gpt1"`),
	"a loop":               grubCase("while true; do x; done", "while is not understood"),
	"another command":      grubCase("menuentry x { chainloader +1 }", `command "chainloader" is not understood`),
	"a password":           grubCase("set superusers=root\npassword root x\nmenuentry x { linux /k }", "asks for a password"),
	"no password":          grubCase("set superusers=root\nmenuentry x --unrestricted { linux /k }", "sda1:k | BOOT_IMAGE=/k"),
	"no kernel":            grubCase("menuentry x { echo hi }", "boots no Linux kernel"),
	"a kernel not there":   grubCase("menuentry x { linux /other }", "wants sda1:/other, which is not there"),
	"a condition":          grubCase("if [ a -newer b ]; then x; fi", "condition \"a -newer b\" is not understood"),
	"itself":               grubCase("source $prefix/grub.cfg", "calls in too many calls"),
	"itself, anew":         grubCase("configfile $prefix/grub.cfg", "calls in too many calls"),
	"an open quotation":    grubCase("set a='x", "a quotation does not end"),
	"an open block":        grubCase("menuentry x {", "} is missing"),
	"an open condition":    grubCase("if true; then\necho", "fi is missing"),
	"a pipe":               grubCase("echo a | b", "line 1: '|' is not understood"),
	"deep":                 grubCase(strings.Repeat("if true; then ", 100), "blocks in more than"),
	"long":                 grubCase(strings.Repeat("#", 1<<20+1), "it has more than 1024 KiB"),
	"many words":           grubCase(strings.Repeat("a ", 200_001), "more than 200000 words"),
	"values that grow":     grubCase("set a=xxxxxxxx\n"+strings.Repeat("set a=$a$a\n", 40), "become more than 4 MiB"),
	"arguments that grow":  grubCase("function a { a $* $* x; }\na b", "a command of more than 4096 words"),
	"calls without an end": grubCase("function a { a; a; }\nfunction b { "+strings.Repeat("c; ", 99)+"}\nfunction c { "+strings.Repeat("true; ", 2000)+"}\nb; b", "more than 100000 commands"),
	"no menu":              grubCase("set default=1", "it has no menu entries"),
	"beyond the menu":      grubCase("set default=1\nmenuentry x { linux /k }", "the default is entry 1 of 1"),
	"values that are cut":  grubCase(`set a=" b  c "; menuentry x { linux /k $a d$a"$a" $none "" $1 }`, `sda1:k | BOOT_IMAGE=/k b c d b c " b  c " `),
	"exported or not":      grubCase("set a=1; set b=2; export b; submenu x { menuentry y { linux /k $a $b } }; set default='0>y'", "sda1:k | BOOT_IMAGE=/k 2"),
	"! and -o and numbers": grubCase(`if [ ! -f /k -o 2 -gt 1 -a x != y ]; then menuentry x { linux /k; initrd /k }; fi`, "sda1:k sda1:k | BOOT_IMAGE=/k"),
	"two that differ": {bootentry.BIOS, []bootentry.Volume{volume("sda1", "", map[string]string{"k": "k",
		"grub/grub.cfg": "linux /k a\nboot", "syslinux.cfg": "DEFAULT x\nLABEL x\nKERNEL /k\n"})}, "boot different things"},
}

var testImage = volume("vda1", "ABCD-0123", map[string]string{
	"vmlinuz": "k", "initrd": "i",
	"syslinux.cfg":      "DEFAULT ingot\nPROMPT 0\nLABEL ingot\n KERNEL /vmlinuz\n INITRD /initrd\n APPEND console=ttyS0 quiet\n",
	"EFI/BOOT/grub.cfg": "linux /vmlinuz console=ttyS0 quiet\ninitrd /initrd\nboot\n"})

const testImageBoots = "vda1:vmlinuz vda1:initrd | BOOT_IMAGE=/vmlinuz console=ttyS0 quiet"

func grubCase(text, want string) (c struct {
	firmware bootentry.Firmware
	volumes  []bootentry.Volume
	want     string
}) {
	c.firmware, c.want = bootentry.BIOS, want
	c.volumes = []bootentry.Volume{volume("sda1", rootUUID, map[string]string{"boot/grub/grub.cfg": text, "k": "k"})}
	return c
}

// grubFiles is grubCase with more files.
func grubFiles(text, want string, more map[string]string) (c struct {
	firmware bootentry.Firmware
	volumes  []bootentry.Volume
	want     string
}) {
	c = grubCase(text, want)
	for path, text := range more {
		c.volumes[0].Files.(fstest.MapFS)[path] = &fstest.MapFile{Data: []byte(text)}
	}
	return c
}

func TestWhatIsBootedByDefaultIsKnownOrTheReasonWhyNot(t *testing.T) {
	t.Parallel()
	for name, c := range disks {
		e, err := bootentry.Find(c.volumes, nil, c.firmware)
		if (err == nil) != strings.Contains(c.want, " | ") {
			t.Errorf("%s: %s, %v", name, told(c.volumes, e), err)
			continue
		}
		if err == nil && told(c.volumes, e) != c.want {
			t.Errorf("%s: %q, want %q", name, told(c.volumes, e), c.want)
		}
		if err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, want %q", name, err, c.want)
		}
	}
}

func TestWhatCannotBeReadMayHaveAnotherConfiguration(t *testing.T) {
	t.Parallel()
	esp := volume("sda1", "ABCD-0123", map[string]string{"EFI/a/grub.cfg": "linux /k\nboot", "k": "k"})
	root := volume("sda2", rootUUID, map[string]string{"grub/grub.cfg": "linux /k\nboot", "k": "k"})
	byFile := volume("sda1", "ABCD-0123", map[string]string{"EFI/a/grub.cfg": "search --file --set=root /k\nlinux /k\nboot", "k": "k"})
	other, fat := bootentry.Volume{Name: "sda3"}, bootentry.Volume{Name: "sda4", EFI: true}
	for name, c := range map[string]struct {
		firmware     bootentry.Firmware
		read, unread bootentry.Volume
		want         string
	}{
		"on the way from the EFI system partition": {bootentry.UEFI, esp, other, ""},
		"another EFI system partition":             {bootentry.UEFI, esp, fat, "sda4, from which UEFI may start"},
		"a file that is searched for":              {bootentry.UEFI, byFile, other, "search by a file"},
		"UEFI without one":                         {bootentry.UEFI, root, other, "sda2:/grub/grub.cfg is a configuration, and there may be"},
		"BIOS":                                     {bootentry.BIOS, root, other, "sda2:/grub/grub.cfg is a configuration, and there may be"},
	} {
		_, err := bootentry.Find([]bootentry.Volume{c.read}, []bootentry.Volume{c.unread}, c.firmware)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// What the file system does not tell is an error, not a file that is not there.
func TestWhatIsNotToldIsNotAbsent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ at, link string }{
		{"syslinux.cfg", "/etc/syslinux.cfg"}, {"boot", "/b"}, {"grub", "grub"}, {"boot/grub/grubenv", "/x"},
		{"boot/grub/a", "../../../x"},
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(c.at)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(c.link, filepath.Join(dir, c.at)); err != nil {
			t.Fatal(err)
		}
		const text = "load_env\nif [ -f /boot/grub/a ]; then true; fi\nlinux /k\nboot"
		if c.at != "boot" {
			if err := os.MkdirAll(filepath.Join(dir, "boot/grub"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "boot/grub/grub.cfg"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_, err = bootentry.Find([]bootentry.Volume{{Name: "sda1", Files: root.FS()}}, nil, bootentry.BIOS)
		if err == nil || !strings.Contains(err.Error(), "escapes from parent") && !strings.Contains(err.Error(), "too many levels") {
			t.Errorf("%s -> %s: %v", c.at, c.link, err)
		}
	}
}

func TestNoNamedPipeIsOpened(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"syslinux.cfg", "grub", "EFI"} {
		dir := t.TempDir()
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, firmware := range []bootentry.Firmware{bootentry.BIOS, bootentry.UEFI} {
			v := bootentry.Volume{Name: "sda1", EFI: true, Files: os.DirFS(dir)}
			if _, err := bootentry.Find([]bootentry.Volume{v}, nil, firmware); err == nil {
				t.Error("something is booted")
			}
		}
	}
}

// FuzzFind: whatever is on a disk, there is an entry whose files exist, or an error.
func FuzzFind(f *testing.F) {
	for _, text := range []string{ubuntu, fedora, fedoraStub, specFile("5.14"), env("saved_entry=1"),
		"DEFAULT a\nLABEL a\nKERNEL k\nAPPEND initrd=k\n",
		"function a { b $1; }\na \"${x}\\\"\" 'y'\nif [ ! -z \"$#\" ]; then menuentry a { linux /k; initrd /k; }; fi"} {
		f.Add(text, text)
	}
	f.Fuzz(func(t *testing.T, config, entry string) {
		for path, firmware := range map[string]bootentry.Firmware{"grub/grub.cfg": bootentry.BIOS, "syslinux.cfg": bootentry.BIOS,
			"EFI/BOOT/grub.cfg": bootentry.UEFI} {
			volumes := []bootentry.Volume{volume("a", "ABCD-0123", map[string]string{path: config, "k": "k", "grub/grubenv": entry,
				"grub2/grub.cfg": entry, "loader/entries/a.conf": entry})}
			e, err := bootentry.Find(volumes, nil, firmware)
			if err != nil {
				continue
			}
			for _, file := range append([]bootentry.File{e.Kernel}, e.Initrds...) {
				if info, err := volumes[file.Volume].Files.Open(file.Path); err != nil {
					t.Errorf("%q: %v %v", config, info, err)
				}
			}
		}
	})
}
