# Installing, and everything that only an installed vitrun has: the shared library's names, files for
# pkg-config and CMake. Included by the Makefile; INSTALLED is the one list that install, uninstall and
# the package follow.
#
#   make install [PREFIX=/usr/local] [DESTDIR=]    libdir=..., bindir=... as GNU's conventions have them
#   make uninstall                                 with the same variables
#   make deb                                       a Debian package in the build folder
#   RUN=qemu-aarch64                               runs what was built for another machine

PREFIX      ?= /usr/local
prefix      ?= $(PREFIX)
exec_prefix ?= $(prefix)
bindir      ?= $(exec_prefix)/bin
libdir      ?= $(exec_prefix)/lib
includedir  ?= $(prefix)/include
datarootdir ?= $(prefix)/share
mandir      ?= $(datarootdir)/man
zshdir      ?= $(datarootdir)/zsh/site-functions
docdir      ?= $(datarootdir)/doc/vitrun

ifneq ($(words $(prefix)),1)
$(error PREFIX="$(prefix)": expected a path without blanks)
endif

# The shared library's name changes with what vitrun.h promises not to change.
VERSION := $(shell sed -n 's/^.define VITRUN_VERSION  *"\(.*\)"/\1/p' engine/vitrun.h)
VERSION_WORDS := $(subst ., ,$(VERSION))
ABI     := $(if $(filter 0,$(firstword $(VERSION_WORDS))),0.$(word 2,$(VERSION_WORDS)),$(firstword $(VERSION_WORDS)))
SONAME  := libvitrun.so.$(ABI)

# Only what vitrun.h declares is seen outside, in the static library, too, where all objects are made one.
$(B)/install/vitrun.o: $(LIB_OBJ)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) -r -nostdlib -o $@ $^ && $(OBJCOPY) -w --keep-global-symbol='vitrun_*' --localize-hidden $@
$(B)/install/libvitrun.a: $(B)/install/vitrun.o
	@rm -f $@
	$(call say,AR,$@)ar rcs $@ $^
OBJCOPY ?= $(shell $(CC) -print-prog-name=objcopy)
STRIP   ?= $(shell $(CC) -print-prog-name=strip)

# How this folder was built, for tests that build with it: a shell's function that runs make with the
# same variables, and what links with the library.
SETTINGS := $(sort B OBJ config CC werror ONEDNN LIBJPEG JANSSON CUDA CUDA_ARCHS \
            $(filter-out PREFIX DESTDIR RUN prefix exec_prefix %dir,\
            $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))))
all: $(B)/settings
$(B)/settings: FORCE
	@mkdir -p $(@D)
	@echo "same_make() { env -u MAKEFLAGS -u MAKELEVEL make -s $(foreach v,$(SETTINGS),'$(v)=$($(v))') \"\$$@\"; }" >$@
	@echo "cc='$(CC) $(filter-out -fopenmp,$(LDFLAGS))' built='$(B)'" >>$@

# Manual pages and completions, by a program that knows the command line's tables.
PAGES_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(wildcard engine/install/*.c)) \
             $(filter-out %/main.o,$(CLI_OBJ))
COMMANDS  := run info mask check bench eval sweep sensitivity calibrate search tune
PAGES     := vitrun.1 $(COMMANDS:%=vitrun-%.1) vitrun.bash vitrun.fish _vitrun
RUN       ?=
$(B)/install/pages: $(PAGES_OBJ) $(B)/libvitrun.a
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/install/vitrun.1: $(B)/install/pages
	@$(RUN) $< $(@D)
$(addprefix $(B)/install/,$(filter-out vitrun.1,$(PAGES))): $(B)/install/vitrun.1 ;

# Paths in these files are those of the installed files, so they are made anew at each installation.
FILLED := $(addprefix $(B)/install/,vitrun.3 vitrun.pc vitrunConfig.cmake vitrunConfigVersion.cmake)
$(FILLED): $(B)/install/%: engine/install/%.in FORCE
	@mkdir -p $(@D)
	@sed -e 's|@prefix@|$(prefix)|' -e 's|@libdir@|$(libdir)|' -e 's|@includedir@|$(includedir)|' \
	    -e 's|@version@|$(VERSION)|' -e 's|@soname@|$(SONAME)|' \
	    -e 's|@abi@|$(ABI)|' -e 's|@docdir@|$(docdir)|' -e 's|@private@|$(PRIVATE)|' \
	    -e 's|@private_list@|$(subst $(SPACE),;,$(PRIVATE))|' \
	    $< >$@
# What the static library needs besides itself.
PRIVATE = $(strip $(LDLIBS) -fopenmp)
SPACE   := $() $()

# mode:what:where
INSTALLED = \
    755:$(B)/vitrun:$(bindir)/vitrun \
    755:$(B)/libvitrun.so:$(libdir)/libvitrun.so.$(VERSION) \
    644:$(B)/install/libvitrun.a:$(libdir)/libvitrun.a \
    644:$(B)/install/vitrun.pc:$(libdir)/pkgconfig/vitrun.pc \
    $(foreach f,vitrunConfig.cmake vitrunConfigVersion.cmake,\
        644:$(B)/install/$(f):$(libdir)/cmake/vitrun/$(f)) \
    644:engine/vitrun.h:$(includedir)/vitrun.h \
    $(foreach f,vitrun.1 $(COMMANDS:%=vitrun-%.1),644:$(B)/install/$(f):$(mandir)/man1/$(f)) \
    644:$(B)/install/vitrun.3:$(mandir)/man3/vitrun.3 \
    644:$(B)/install/vitrun.bash:$(datarootdir)/bash-completion/completions/vitrun \
    644:$(B)/install/_vitrun:$(zshdir)/_vitrun \
    644:$(B)/install/vitrun.fish:$(datarootdir)/fish/vendor_completions.d/vitrun.fish \
    644:README.md:$(docdir)/README.md \
    644:LICENSE:$(docdir)/copyright \
    $(foreach f,classify.c classify.py,644:samples/$(f):$(docdir)/examples/$(f))
# where a symbolic link is:what it says
INSTALLED_LINKS = \
    $(libdir)/$(SONAME):libvitrun.so.$(VERSION) \
    $(libdir)/libvitrun.so:$(SONAME)
# Folders of our own, emptied by uninstall and then removed.
INSTALLED_FOLDERS = $(libdir)/cmake/vitrun $(docdir)/examples $(docdir)

field = $(word $(1),$(subst :, ,$(2)))

.PHONY: install install-strip uninstall deb
install: all $(foreach f,$(INSTALLED),$(call field,2,$(f)))
	@set -e; $(foreach f,$(INSTALLED),install -D -m $(call field,1,$(f)) $(call field,2,$(f)) \
	    '$(DESTDIR)$(call field,3,$(f))'; echo '  INSTALL  $(DESTDIR)$(call field,3,$(f))';) \
	$(foreach l,$(INSTALLED_LINKS),ln -sf $(call field,2,$(l)) '$(DESTDIR)$(call field,1,$(l))';)
	@[ -n '$(DESTDIR)' ] || ldconfig 2>/dev/null || : # the dynamic linker gets to know the library

# Without the tables for debuggers, which are most of the bytes.
install-strip: install
	$(STRIP) '$(DESTDIR)$(bindir)/vitrun'
	$(STRIP) --strip-unneeded '$(DESTDIR)$(libdir)/libvitrun.so.$(VERSION)'
	$(STRIP) --strip-debug '$(DESTDIR)$(libdir)/libvitrun.a'

uninstall:
	rm -f $(foreach f,$(INSTALLED),'$(DESTDIR)$(call field,3,$(f))') \
	    $(foreach l,$(INSTALLED_LINKS),'$(DESTDIR)$(call field,1,$(l))')
	@for d in $(INSTALLED_FOLDERS); do \
	    [ ! -d "$(DESTDIR)$$d" ] || rmdir --ignore-fail-on-non-empty "$(DESTDIR)$$d"; done

DEB := $(B)/vitrun_$(VERSION)-1_$(shell dpkg --print-architecture 2>/dev/null).deb
deb: all
	@rm -rf $(B)/deb
	@$(MAKE) install DESTDIR=$(B)/deb prefix=/usr \
	    libdir=/usr/lib/$(shell $(CC) -dumpmachine) zshdir=/usr/share/zsh/vendor-completions >/dev/null
	@engine/install/deb.sh $(abspath $(B)/deb) $(VERSION)-1 $(DEB)
	@echo '  DEB  $(DEB)'
